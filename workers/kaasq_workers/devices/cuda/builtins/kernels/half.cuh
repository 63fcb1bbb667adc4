// float16: stored as such, computed in float.
#include <cuda_fp16.h>

template <> struct Element<__half> {
    using Wide = float;
    using Bits = float;
    static INLINE float widen(__half value) { return __half2float(value); }
    static INLINE __half narrow(float value) { return __float2half_rn(value); }
};
