// Turns a kernel function into an entry of the module's table: its parameters, and how to run it for a block or thread.
#pragma once

namespace kaasq {
template <size_t... I> struct Numbers {};
template <class T, T... I> using NumbersOf = Numbers<I...>;
// What std::make_index_sequence is built on; <utility> would cost compile time.
#if defined(__clang__)
template <size_t N> using NumbersBelow = __make_integer_seq<NumbersOf, size_t, N>;
#else
template <size_t N> using NumbersBelow = Numbers<__integer_pack(N)...>;
#endif

inline constexpr unsigned LARGEST_INDEX = 0x7fff0000u;  // leaves room for a block above it

template <auto kernel> struct Entry;

template <class... P, void (*kernel)(P...)>
struct Entry<kernel> {
    static constexpr size_t count = sizeof...(P);
    using AllParameters = NumbersBelow<count>;

    struct Table {
        Parameter entries[count + 1];
    };
    static constexpr Table make_table() {
        Table table{};
        const uint32_t sizes[] = {sizeof(P)..., 0}, alignments[] = {alignof(P)..., 1};
        const bool pointers[] = {std::is_pointer_v<P>..., false};
        uint32_t offset = 0;
        for (size_t i = 0; i < count; i++) {
            offset = (offset + alignments[i] - 1) / alignments[i] * alignments[i];
            table.entries[i] = {offset, sizes[i], pointers[i]};
            offset += sizes[i];
        }
        return table;
    }
    static constexpr Table parameters = make_table();

    static __forceinline__ void enter(const Launch* launch, Index block) {
        blockDim = {launch->block.x, launch->block.y, launch->block.z};
        gridDim = {launch->grid.x, launch->grid.y, launch->grid.z};
        blockIdx = {block.x, block.y, block.z};
    }
    static void enter_block(const Launch* launch, Index block) { enter(launch, block); }

    template <size_t... I>
    static __forceinline__ void call(void** arguments, Numbers<I...>) {
        kernel(*static_cast<std::remove_cv_t<P>*>(arguments[I])...);
    }
    static void run_thread(const Launch* launch, Index thread) {
        threadIdx = {thread.x, thread.y, thread.z};
        call(launch->arguments, AllParameters{});
    }

    // Counts threads along x by their index in the grid, in a signed variable: then the usual
    // `int i = blockIdx.x * blockDim.x + threadIdx.x`, unsigned as it is, is known not to wrap, and vectorises.
    static __forceinline__ void run_rows(Index grid_block, Index size, std::remove_cv_t<P>... arguments) {
        const int start = static_cast<int>(grid_block.x * size.x);
        if (start < 0 || start > static_cast<int>(LARGEST_INDEX)) __builtin_unreachable();
        if (size.x == 0 || size.x > 1024) __builtin_unreachable();
        const int end = start + static_cast<int>(size.x);
        for (unsigned z = 0; z < size.z; z++)
            for (unsigned y = 0; y < size.y; y++) {
                threadIdx.z = z;
                threadIdx.y = y;
                for (int x = start; x < end; x++) {
                    threadIdx.x = static_cast<unsigned>(x - start);
                    kernel(arguments...);
                }
            }
    }
    template <size_t... I>
    static __forceinline__ void run_rows_of(const Launch* launch, Index block, Numbers<I...>) {
        run_rows(block, launch->block, *static_cast<std::remove_cv_t<P>*>(launch->arguments[I])...);
    }
    // For the grids too wide for that.
    static __attribute__((noinline, cold)) void run_wide(const Launch* launch) {
        const Index size = launch->block;
        for (unsigned z = 0; z < size.z; z++)
            for (unsigned y = 0; y < size.y; y++)
                for (unsigned x = 0; x < size.x; x++) run_thread(launch, {x, y, z});
    }
    static void run_block(const Launch* launch, Index block) {
        enter(launch, block);
        if (static_cast<uint64_t>(launch->grid.x) * launch->block.x > LARGEST_INDEX) return run_wide(launch);
        run_rows_of(launch, block, AllParameters{});
    }
};

template <auto kernel, bool has_barrier, bool prints>
constexpr Kernel describe(const char* name, unsigned threads_per_block) {
    using E = Entry<kernel>;
    if constexpr (has_barrier)
        return {name, E::parameters.entries, E::count, threads_per_block, 1, prints, E::enter_block, E::run_thread};
    else
        return {name, E::parameters.entries, E::count, threads_per_block, 0, prints, E::run_block, nullptr};
}
}  // namespace kaasq

template <class T>
inline T* kaasq_dynamic_shared() { return reinterpret_cast<T*>(kaasq_shared); }
