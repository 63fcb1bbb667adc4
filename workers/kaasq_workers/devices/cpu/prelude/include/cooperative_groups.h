// Cooperative groups within a block: thread_block, tiles, coalesced groups, reduce. Grids and clusters are refused.
#pragma once

namespace cooperative_groups {

class thread_block {
  public:
    static void sync() { __syncthreads(); }
    static unsigned thread_rank() {
        return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    }
    static unsigned num_threads() { return blockDim.x * blockDim.y * blockDim.z; }
    static unsigned size() { return num_threads(); }
    static dim3 group_index() { return dim3(blockIdx.x, blockIdx.y, blockIdx.z); }
    static dim3 thread_index() { return dim3(threadIdx.x, threadIdx.y, threadIdx.z); }
    static dim3 group_dim() { return dim3(blockDim.x, blockDim.y, blockDim.z); }
    static dim3 dim_threads() { return group_dim(); }
};
inline thread_block this_thread_block() { return {}; }

namespace details {
// Lanes of one warp that work together. A lane's rank is its place among them.
class lanes {
  public:
    unsigned thread_rank() const { return __builtin_popcount(mask & ((1u << kaasq::lane()) - 1)); }
    unsigned num_threads() const { return __builtin_popcount(mask); }
    unsigned size() const { return num_threads(); }
    void sync() const { __syncwarp(mask); }

    template <class T> T shfl(T value, unsigned rank) const { return from(value, rank % num_threads()); }
    template <class T> T shfl_up(T value, unsigned delta) const {
        const unsigned rank = thread_rank();
        return from(value, rank < delta ? rank : rank - delta);
    }
    template <class T> T shfl_down(T value, unsigned delta) const {
        const unsigned rank = thread_rank();
        return from(value, rank + delta >= num_threads() ? rank : rank + delta);
    }
    template <class T> T shfl_xor(T value, unsigned pattern) const {
        const unsigned rank = thread_rank(), other = rank ^ pattern;
        return from(value, other < num_threads() ? other : rank);
    }
    bool any(int vote) const { return __any_sync(mask, vote); }
    bool all(int vote) const { return __all_sync(mask, vote); }
    unsigned ballot(int vote) const { return packed(__ballot_sync(mask, vote)); }
    template <class T> unsigned match_any(T value) const { return packed(__match_any_sync(mask, value)); }
    template <class T> unsigned match_all(T value, int& same) const { return packed(__match_all_sync(mask, value, &same)); }

    unsigned mask;

  protected:
    explicit lanes(unsigned mask) : mask(mask) {}

  private:
    unsigned lane_of(unsigned rank) const {
        unsigned rest = mask;
        while (rank--) rest &= rest - 1;
        return __builtin_ctz(rest);
    }
    // Values larger than a word travel in pieces.
    template <class T> T from(T value, unsigned rank) const {
        const unsigned source = lane_of(rank);
        T result;
        for (size_t at = 0; at < sizeof(T); at += 8) {
            const size_t bytes = sizeof(T) - at < 8 ? sizeof(T) - at : 8;
            uint64_t word = 0;
            __builtin_memcpy(&word, reinterpret_cast<const char*>(&value) + at, bytes);
            word = kaasq::shuffle(mask, word, source);
            __builtin_memcpy(reinterpret_cast<char*>(&result) + at, &word, bytes);
        }
        return result;
    }
    unsigned packed(unsigned by_lane) const {
        unsigned by_rank = 0, rank = 0;
        for (unsigned rest = mask; rest; rest &= rest - 1, rank++)
            if (by_lane & rest & -rest) by_rank |= 1u << rank;
        return by_rank;
    }
};
}  // namespace details

template <unsigned tile_size, class Parent = thread_block>
class thread_block_tile : public details::lanes {
    static_assert(tile_size >= 1 && tile_size <= 32 && (tile_size & (tile_size - 1)) == 0,
                  "kaasq's CPU device has tiles of 1, 2, 4, 8, 16 or 32 threads");

  public:
    thread_block_tile() : lanes((tile_size == 32 ? ~0u : (1u << tile_size % 32) - 1) << (kaasq::lane() & ~(tile_size - 1))) {}
    static constexpr unsigned num_threads() { return tile_size; }
    static constexpr unsigned size() { return tile_size; }
    static unsigned thread_rank() { return kaasq::lane() & (tile_size - 1); }
    static unsigned meta_group_rank() { return thread_block::thread_rank() / tile_size; }
    static unsigned meta_group_size() { return (thread_block::num_threads() + tile_size - 1) / tile_size; }
};
template <unsigned tile_size, class Group>
inline thread_block_tile<tile_size, Group> tiled_partition(const Group&) {
    return {};
}

class coalesced_group : public details::lanes {
  public:
    explicit coalesced_group(unsigned mask) : lanes(mask) {}
};
inline coalesced_group coalesced_threads_at(unsigned place) { return coalesced_group(kaasq_active_lanes(place)); }
#define coalesced_threads() coalesced_threads_at(__COUNTER__)

template <class T> struct plus { T operator()(T a, T b) const { return a + b; } };
template <class T> struct less { T operator()(T a, T b) const { return b < a ? b : a; } };
template <class T> struct greater { T operator()(T a, T b) const { return a < b ? b : a; } };
template <class T> struct bit_and { T operator()(T a, T b) const { return a & b; } };
template <class T> struct bit_or { T operator()(T a, T b) const { return a | b; } };
template <class T> struct bit_xor { T operator()(T a, T b) const { return a ^ b; } };
template <class Group, class T, class F>
inline T reduce(const Group& group, T value, F&& combine) {
    return kaasq::reduce(group.mask, value, combine);
}

template <class Group> inline void sync(const Group& group) { group.sync(); }
}  // namespace cooperative_groups
