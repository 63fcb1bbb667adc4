// Atomics on shared and global memory: blocks run on several OS threads, so both are real atomics. Relaxed, as in CUDA.
#pragma once

namespace kaasq {
template <size_t> struct Word;
template <> struct Word<2> { using type = uint16_t; };
template <> struct Word<4> { using type = uint32_t; };
template <> struct Word<8> { using type = uint64_t; };

// Read, modify, write for what the processor has no instruction for. Returns the old value.
template <class T, class F>
inline T atomically(T* address, F change) {
    using W = typename Word<sizeof(T)>::type;
    W* word = reinterpret_cast<W*>(address);
    W old = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(word, &old, bits<W>(static_cast<T>(change(bits<T>(old)))), true,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return bits<T>(old);
}
template <class T> struct Same { using type = T; };  // keeps the value from taking part in deducing T
template <class T> using Value = typename Same<T>::type;
}  // namespace kaasq

template <class T>
inline T atomicAdd(T* address, kaasq::Value<T> value) {
    if constexpr (std::is_integral_v<T>) return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
    else return kaasq::atomically(address, [=](T old) { return old + value; });
}
template <class T>
inline T atomicSub(T* address, kaasq::Value<T> value) {
    if constexpr (std::is_integral_v<T>) return __atomic_fetch_sub(address, value, __ATOMIC_RELAXED);
    else return kaasq::atomically(address, [=](T old) { return old - value; });
}
template <class T>
inline T atomicMax(T* address, kaasq::Value<T> value) {
    return kaasq::atomically(address, [=](T old) { return old < value ? value : old; });
}
template <class T>
inline T atomicMin(T* address, kaasq::Value<T> value) {
    return kaasq::atomically(address, [=](T old) { return value < old ? value : old; });
}
template <class T>
inline T atomicExch(T* address, kaasq::Value<T> value) {
    return kaasq::atomically(address, [=](T) { return value; });
}
template <class T>
inline T atomicAnd(T* address, kaasq::Value<T> value) { return __atomic_fetch_and(address, value, __ATOMIC_RELAXED); }
template <class T>
inline T atomicOr(T* address, kaasq::Value<T> value) { return __atomic_fetch_or(address, value, __ATOMIC_RELAXED); }
template <class T>
inline T atomicXor(T* address, kaasq::Value<T> value) { return __atomic_fetch_xor(address, value, __ATOMIC_RELAXED); }
template <class T>
inline T atomicCAS(T* address, kaasq::Value<T> expected, kaasq::Value<T> value) {
    using W = typename kaasq::Word<sizeof(T)>::type;
    W old = kaasq::bits<W>(expected);
    __atomic_compare_exchange_n(reinterpret_cast<W*>(address), &old, kaasq::bits<W>(value), false, __ATOMIC_RELAXED,
                                __ATOMIC_RELAXED);
    return kaasq::bits<T>(old);
}
inline unsigned atomicInc(unsigned* address, unsigned limit) {
    return kaasq::atomically(address, [=](unsigned old) { return old >= limit ? 0u : old + 1; });
}
inline unsigned atomicDec(unsigned* address, unsigned limit) {
    return kaasq::atomically(address, [=](unsigned old) { return old == 0 || old > limit ? limit : old - 1; });
}

#define KAASQ_SCOPED(name)                                                                            \
    template <class T, class V> inline T name##_block(T* address, V value) { return name(address, value); } \
    template <class T, class V> inline T name##_system(T* address, V value) { return name(address, value); }
KAASQ_SCOPED(atomicAdd)
KAASQ_SCOPED(atomicSub)
KAASQ_SCOPED(atomicMax)
KAASQ_SCOPED(atomicMin)
KAASQ_SCOPED(atomicExch)
KAASQ_SCOPED(atomicAnd)
KAASQ_SCOPED(atomicOr)
KAASQ_SCOPED(atomicXor)
KAASQ_SCOPED(atomicInc)
KAASQ_SCOPED(atomicDec)
#undef KAASQ_SCOPED
template <class T, class V> inline T atomicCAS_block(T* a, V expected, V value) { return atomicCAS(a, expected, value); }
template <class T, class V> inline T atomicCAS_system(T* a, V expected, V value) { return atomicCAS(a, expected, value); }

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_signal_fence(__ATOMIC_SEQ_CST); }  // a block is on one OS thread
