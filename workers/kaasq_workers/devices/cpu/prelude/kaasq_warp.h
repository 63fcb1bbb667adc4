// Barriers of a block, and a warp's collectives: shuffles, votes, matches and reductions.
#pragma once

namespace kaasq {
// The kernels that wait are told by the words of their source, which macros can hide.
inline const Thread* waiting_thread() {
    if (__builtin_expect(!kaasq_thread, 0))
        kaasq_fail("it waits for other threads, which its source does not show: a macro puts the name of the barrier, "
                   "shuffle or vote together; write it out");
    return kaasq_thread;
}
// Other threads ran on this OS thread meanwhile: take our own index back.
inline void resume() {
    const Index index = kaasq_thread->index;
    threadIdx.x = index.x;
    threadIdx.y = index.y;
    threadIdx.z = index.z;
}
inline BlockVote sync_block(bool vote) {
    waiting_thread();
    const BlockVote result = kaasq_sync_block(vote);
    resume();
    return result;
}
inline const Exchange& exchange(unsigned mask, uint64_t value) {
    waiting_thread();
    const Exchange* result = kaasq_exchange(mask, value);
    resume();
    return *result;
}
inline unsigned lane() { return waiting_thread()->linear & 31; }

template <class T>
inline uint64_t to_word(T value) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "a shuffle moves at most 8 bytes");
    uint64_t word = 0;
    __builtin_memcpy(&word, &value, sizeof value);
    return word;
}
template <class T>
inline T from_word(uint64_t word) {
    T value;
    __builtin_memcpy(&value, &word, sizeof value);
    return value;
}
template <class T>
inline T shuffle(unsigned mask, T value, unsigned source) {
    return from_word<T>(exchange(mask, to_word(value)).values[source & 31]);
}
template <class T, class F>
inline T reduce(unsigned mask, T value, F combine) {
    const Exchange& all = exchange(mask, to_word(value));
    T result{};
    bool first = true;
    for (unsigned rest = all.members; rest; rest &= rest - 1) {
        const T each = from_word<T>(all.values[__builtin_ctz(rest)]);
        result = first ? each : combine(result, each);
        first = false;
    }
    return result;
}
}  // namespace kaasq

inline void __syncthreads() { kaasq::sync_block(false); }
inline int __syncthreads_count(int vote) { return static_cast<int>(kaasq::sync_block(vote != 0).in_favour); }
inline int __syncthreads_or(int vote) { return kaasq::sync_block(vote != 0).in_favour != 0; }
inline int __syncthreads_and(int vote) {
    const kaasq::BlockVote result = kaasq::sync_block(vote != 0);
    return result.in_favour == result.voters;
}
inline void __syncwarp(unsigned mask = 0xffffffffu) { kaasq::exchange(mask, 0); }

// Each lane reads the lane that `width`, its own place and the operand name; where there is none, itself.
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const unsigned segment = kaasq::lane() & ~(width - 1u);
    return kaasq::shuffle(mask, value, segment | (source & (width - 1u)));
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const unsigned lane = kaasq::lane(), place = lane & (width - 1u);
    return kaasq::shuffle(mask, value, place < delta ? lane : lane - delta);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const unsigned lane = kaasq::lane(), place = lane & (width - 1u);
    return kaasq::shuffle(mask, value, place + delta >= static_cast<unsigned>(width) ? lane : lane + delta);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int pattern, int width = 32) {
    const unsigned lane = kaasq::lane(), source = lane ^ static_cast<unsigned>(pattern);
    const unsigned segment_end = (lane | (width - 1u)) + 1;
    return kaasq::shuffle(mask, value, source >= segment_end ? lane : source);
}

inline unsigned __ballot_sync(unsigned mask, int vote) {
    const kaasq::Exchange& all = kaasq::exchange(mask, vote != 0);
    unsigned result = 0;
    for (unsigned rest = all.members; rest; rest &= rest - 1) {
        const unsigned lane = __builtin_ctz(rest);
        result |= static_cast<unsigned>(all.values[lane]) << lane;
    }
    return result;
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, !vote) == 0; }
// Lanes are active together when they stand at the same place in the program. The place is a number and not the address
// of the call, since an optimiser may make one call of two.
inline unsigned kaasq_active_lanes(unsigned place) {
    kaasq::waiting_thread();
    const unsigned lanes = kaasq_converged_lanes(place);
    kaasq::resume();
    return lanes;
}
#define __activemask() kaasq_active_lanes(__COUNTER__)

template <class T>
inline unsigned __match_any_sync(unsigned mask, T value) {
    const uint64_t own = kaasq::to_word(value);
    const kaasq::Exchange& all = kaasq::exchange(mask, own);
    unsigned result = 0;
    for (unsigned rest = all.members; rest; rest &= rest - 1)
        if (all.values[__builtin_ctz(rest)] == own) result |= rest & -rest;
    return result;
}
template <class T>
inline unsigned __match_all_sync(unsigned mask, T value, int* same) {
    const uint64_t own = kaasq::to_word(value);
    const kaasq::Exchange& all = kaasq::exchange(mask, own);
    *same = 1;
    for (unsigned rest = all.members; rest; rest &= rest - 1)
        if (all.values[__builtin_ctz(rest)] != own) *same = 0;
    return *same ? all.members : 0;
}

#define KAASQ_REDUCE(name, T, expression)                                                   \
    inline T name(unsigned mask, T value) {                                                 \
        return kaasq::reduce(mask, value, [](T a, T b) -> T { return expression; });        \
    }
KAASQ_REDUCE(__reduce_add_sync, unsigned, a + b)
KAASQ_REDUCE(__reduce_add_sync, int, static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b)))
KAASQ_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
KAASQ_REDUCE(__reduce_min_sync, int, a < b ? a : b)
KAASQ_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
KAASQ_REDUCE(__reduce_max_sync, int, a > b ? a : b)
KAASQ_REDUCE(__reduce_and_sync, unsigned, a& b)
KAASQ_REDUCE(__reduce_or_sync, unsigned, a | b)
KAASQ_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
#undef KAASQ_REDUCE

inline void __nanosleep(unsigned) {}
inline long long clock64() {
#if defined(__x86_64__)
    return static_cast<long long>(__builtin_ia32_rdtsc());
#else
    long long ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#endif
}
inline int clock() { return static_cast<int>(clock64()); }
