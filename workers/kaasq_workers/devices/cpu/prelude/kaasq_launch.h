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

template <auto kernel, auto second_form> struct Entry;

template <class... P, void (*kernel)(P...), auto second_form>
struct Entry<kernel, second_form> {
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
    template <class F>
    static __forceinline__ void for_threads(Index grid_block, Index size, F run) {
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
                    run();
                }
            }
    }
    static __forceinline__ void run_rows(Index block, Index size, std::remove_cv_t<P>... arguments) {
        for_threads(block, size, [&]() __attribute__((always_inline)) { kernel(arguments...); });
    }
    template <size_t... I>
    static __forceinline__ void run_rows_of(const Launch* launch, Index block, Numbers<I...>) {
        run_rows(block, launch->block, *static_cast<std::remove_cv_t<P>*>(launch->arguments[I])...);
    }

    static bool is_wide(const Launch* launch) {
        return static_cast<uint64_t>(launch->grid.x) * launch->block.x > LARGEST_INDEX;
    }
    template <class F>
    static __forceinline__ void for_blocks(const Launch* launch, uint64_t first, uint64_t last, F run) {
        const Index grid = launch->grid;
        for (uint64_t i = first; i < last; i++) {
            const Index block{static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                              static_cast<unsigned>(i / grid.x / grid.y)};
            enter(launch, block);
            run(block);
        }
    }
    static __attribute__((noinline)) void note_block(Strides* out, Index block, Index size, std::remove_cv_t<P>... arguments) {
        Strides all = *out;
        for_threads(block, size, [&]() __attribute__((always_inline)) { second_form(arguments..., &all, 0); });
        *out = all;
    }
    static __attribute__((noinline)) void run_round(long long round, Index block, Index size, std::remove_cv_t<P>... arguments) {
        for_threads(block, size, [&]() __attribute__((always_inline)) { second_form(arguments..., nullptr, round); });
    }
    template <size_t... I>
    static bool run_strided_of(const Launch* launch, uint64_t first, uint64_t last, Numbers<I...>) {
        Strides all;
        for_blocks(launch, first, last, [&](Index block) {
            note_block(&all, block, launch->block, *static_cast<std::remove_cv_t<P>*>(launch->arguments[I])...);
        });
        const long long rounds = all.rounds();
        for (long long round = 0; round < rounds; round++)
            for_blocks(launch, first, last, [&](Index block) {
                run_round(round, block, launch->block, *static_cast<std::remove_cv_t<P>*>(launch->arguments[I])...);
            });
        return rounds >= 0;
    }
    static bool run_strided(const Launch* launch, uint64_t first, uint64_t last) {
        return !is_wide(launch) && run_strided_of(launch, first, last, AllParameters{});
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
        if (is_wide(launch)) return run_wide(launch);
        run_rows_of(launch, block, AllParameters{});
    }
};

template <auto kernel, auto second_form, bool has_barrier, bool prints>
constexpr Kernel describe(const char* name, unsigned threads_per_block) {
    using E = Entry<kernel, second_form>;
    Kernel entry{name, E::parameters.entries, E::count, threads_per_block, has_barrier, prints, nullptr, nullptr, nullptr};
    if constexpr (has_barrier) entry.run_block = E::enter_block, entry.run_thread = E::run_thread;
    else entry.run_block = E::run_block;
    if constexpr (!std::is_null_pointer_v<decltype(second_form)>) entry.run_strided = E::run_strided;
    return entry;
}
}  // namespace kaasq

template <class T>
inline T* kaasq_dynamic_shared() { return reinterpret_cast<T*>(kaasq_shared); }
