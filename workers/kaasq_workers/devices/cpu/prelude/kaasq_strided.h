// Running a grid-stride loop round by round: what devices/cpu/strided.py makes of the source uses these.
#pragma once

namespace kaasq {
// What the loops of a few blocks go through together.
struct Strides {
    long long span = 0, stride = 0, lowest = 0, highest = 0;
    bool uneven = false;

    template <class I, class L, class S>
    __attribute__((always_inline)) void note(I from, L limit, S step, int inclusive) {
        static_assert(std::is_integral_v<I> && std::is_integral_v<L> && std::is_integral_v<S> && sizeof(I) >= 4);
        const long long start = static_cast<long long>(from), end = static_cast<long long>(limit) + inclusive;
        const long long by = static_cast<long long>(step);
        uneven |= stride != by && stride != 0;
        stride = by;
        span = end - start > span ? end - start : span;
        lowest = start < lowest ? start : lowest;
        lowest = end < lowest ? end : lowest;
        highest = start > highest ? start : highest;
        highest = end > highest ? end : highest;
        highest = by > highest ? by : highest;
    }
    // How often the longest loop goes round, or -1 if not all go with one stride, forwards, and far below 2^31.
    long long rounds() const {
        if (uneven || lowest < 0 || highest > LARGEST || (span && stride <= 0)) return -1;
        return span ? (span + stride - 1) / stride : 0;
    }

  private:
    static constexpr long long LARGEST = 1 << 29;
};

// The counter after some rounds. Added as signed numbers, which the compiler knows not to wrap, and here they do not.
template <class I>
__attribute__((always_inline)) inline I advanced(I start, long long by) {
    using Signed = std::make_signed_t<I>;
    const Signed now = static_cast<Signed>(start) + static_cast<Signed>(by);
    if (now < 0) __builtin_unreachable();
    return static_cast<I>(now);
}
}  // namespace kaasq
