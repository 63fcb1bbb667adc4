// CUDA's SIMD intrinsics: two 16-bit or four 8-bit numbers in one word. The names end in the number of lanes.
#pragma once

namespace kaasq {
// Applies f to the lanes of a and b, widened to int; what it gives is cut to a lane again.
template <class Lane, class F>
inline unsigned by_lane(unsigned a, unsigned b, F f) {
    constexpr int bits = 8 * sizeof(Lane);
    unsigned result = 0;
    for (int at = 0; at < 32; at += bits) {
        const int value = f(static_cast<int>(static_cast<Lane>(a >> at)), static_cast<int>(static_cast<Lane>(b >> at)));
        result |= static_cast<unsigned>(static_cast<std::make_unsigned_t<Lane>>(value)) << at;
    }
    return result;
}
template <class Lane>
inline int clamped(int x) {
    constexpr int highest = std::is_signed_v<Lane> ? (1 << (8 * sizeof(Lane) - 1)) - 1 : (1 << 8 * sizeof(Lane)) - 1;
    constexpr int lowest = std::is_signed_v<Lane> ? -highest - 1 : 0;
    return x < lowest ? lowest : x > highest ? highest : x;
}
template <class Lane>
inline unsigned lane_sum(unsigned a) {
    unsigned sum = 0;
    for (int at = 0; at < 32; at += 8 * static_cast<int>(sizeof(Lane))) sum += static_cast<Lane>(a >> at);
    return sum;
}
inline int distance(int a, int b) { return a > b ? a - b : b - a; }
}  // namespace kaasq

#define KAASQ_LANES_OF(name, count, Lane, expression) \
    inline unsigned __v##name##count(unsigned a, unsigned b) { \
        return kaasq::by_lane<Lane>(a, b, [](int x, int y) -> int { using L = Lane; (void)sizeof(L); return expression; }); \
    }
#define KAASQ_SIGNED(name, expression) \
    KAASQ_LANES_OF(name, 2, int16_t, expression) KAASQ_LANES_OF(name, 4, int8_t, expression)
#define KAASQ_UNSIGNED(name, expression) \
    KAASQ_LANES_OF(name, 2, uint16_t, expression) KAASQ_LANES_OF(name, 4, uint8_t, expression)
KAASQ_UNSIGNED(add, x + y)
KAASQ_UNSIGNED(sub, x - y)
KAASQ_SIGNED(addss, kaasq::clamped<L>(x + y))
KAASQ_UNSIGNED(addus, kaasq::clamped<L>(x + y))
KAASQ_SIGNED(subss, kaasq::clamped<L>(x - y))
KAASQ_UNSIGNED(subus, kaasq::clamped<L>(x - y))
KAASQ_SIGNED(absdiffs, kaasq::distance(x, y))
KAASQ_UNSIGNED(absdiffu, kaasq::distance(x, y))
KAASQ_SIGNED(avgs, (x + y + (x + y >= 0)) >> 1)
KAASQ_UNSIGNED(avgu, (x + y + 1) >> 1)
KAASQ_UNSIGNED(haddu, (x + y) >> 1)
KAASQ_SIGNED(maxs, x > y ? x : y)
KAASQ_UNSIGNED(maxu, x > y ? x : y)
KAASQ_SIGNED(mins, x < y ? x : y)
KAASQ_UNSIGNED(minu, x < y ? x : y)
// Comparisons give all bits of a lane, or its last one.
#define KAASQ_COMPARED(kind, name, expression) kind(cmp##name, expression ? -1 : 0) kind(set##name, expression)
KAASQ_COMPARED(KAASQ_UNSIGNED, eq, x == y)
KAASQ_COMPARED(KAASQ_UNSIGNED, ne, x != y)
KAASQ_COMPARED(KAASQ_SIGNED, ges, x >= y)
KAASQ_COMPARED(KAASQ_UNSIGNED, geu, x >= y)
KAASQ_COMPARED(KAASQ_SIGNED, gts, x > y)
KAASQ_COMPARED(KAASQ_UNSIGNED, gtu, x > y)
KAASQ_COMPARED(KAASQ_SIGNED, les, x <= y)
KAASQ_COMPARED(KAASQ_UNSIGNED, leu, x <= y)
KAASQ_COMPARED(KAASQ_SIGNED, lts, x < y)
KAASQ_COMPARED(KAASQ_UNSIGNED, ltu, x < y)
#undef KAASQ_COMPARED
#undef KAASQ_UNSIGNED
#undef KAASQ_SIGNED
#undef KAASQ_LANES_OF

#define KAASQ_LANES_OF(count, S, U)                                                                         \
    inline unsigned __vabs##count(unsigned a) {                                                             \
        return kaasq::by_lane<S>(a, 0, [](int x, int) { return x < 0 ? -x : x; });                          \
    }                                                                                                       \
    inline unsigned __vabsss##count(unsigned a) {                                                           \
        return kaasq::by_lane<S>(a, 0, [](int x, int) { return kaasq::clamped<S>(x < 0 ? -x : x); });       \
    }                                                                                                       \
    inline unsigned __vneg##count(unsigned a) { return __vsub##count(0, a); }                               \
    inline unsigned __vnegss##count(unsigned a) { return __vsubss##count(0, a); }                           \
    inline unsigned __vsads##count(unsigned a, unsigned b) { return kaasq::lane_sum<U>(__vabsdiffs##count(a, b)); } \
    inline unsigned __vsadu##count(unsigned a, unsigned b) { return kaasq::lane_sum<U>(__vabsdiffu##count(a, b)); }
KAASQ_LANES_OF(2, int16_t, uint16_t)
KAASQ_LANES_OF(4, int8_t, uint8_t)
#undef KAASQ_LANES_OF
