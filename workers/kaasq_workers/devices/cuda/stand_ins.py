"""Stand-ins for the headers of the host's C library, which NVRTC has not got. Data.

Much CUDA C++ includes <stdint.h> or <math.h> for the little of them that a kernel may use. The same source compiles on
the cpu device, so it must compile here. Types are those that CUDA's own C++ library declares under NVRTC: both may be
included.
"""

from __future__ import annotations

_ONCE = "#pragma once\n"
_BUILT_IN = _ONCE  # printf, assert, malloc, memcpy and sqrt: NVRTC knows them without a header


def _macros(text: str) -> str:
    """``NAME value`` a line, as macros that give way to others of that name."""
    return "".join(f"#ifndef {line.split()[0]}\n#define {line}\n#endif\n" for line in text.strip().splitlines() if line)


def _in_std(header: str, names: str) -> str:
    """The C++ form of a C header: the same names in namespace std too."""
    return f"{_ONCE}#include <{header}>\nnamespace std {{ {''.join(f'using ::{n}; ' for n in names.split())}}}\n"


_TYPES = """
typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long long int64_t;
typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef int8_t int_least8_t; typedef int16_t int_least16_t; typedef int32_t int_least32_t;
typedef int64_t int_least64_t; typedef uint8_t uint_least8_t; typedef uint16_t uint_least16_t;
typedef uint32_t uint_least32_t; typedef uint64_t uint_least64_t;
typedef int8_t int_fast8_t; typedef int16_t int_fast16_t; typedef int32_t int_fast32_t; typedef int64_t int_fast64_t;
typedef uint8_t uint_fast8_t; typedef uint16_t uint_fast16_t; typedef uint32_t uint_fast32_t;
typedef uint64_t uint_fast64_t;
typedef int64_t intptr_t; typedef uint64_t uintptr_t; typedef int64_t intmax_t; typedef uint64_t uintmax_t;
"""
_INT_NAMES = "int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t intptr_t uintptr_t"

_INT_RANGES = """
INT8_MIN (-128)
INT8_MAX 127
UINT8_MAX 255
INT16_MIN (-32768)
INT16_MAX 32767
UINT16_MAX 65535
INT32_MIN (-2147483647 - 1)
INT32_MAX 2147483647
UINT32_MAX 4294967295U
INT64_MIN (-9223372036854775807LL - 1)
INT64_MAX 9223372036854775807LL
UINT64_MAX 18446744073709551615ULL
SIZE_MAX UINT64_MAX
"""

_LIMITS = """
CHAR_BIT 8
SCHAR_MIN (-128)
SCHAR_MAX 127
UCHAR_MAX 255
CHAR_MIN SCHAR_MIN
CHAR_MAX SCHAR_MAX
SHRT_MIN (-32768)
SHRT_MAX 32767
USHRT_MAX 65535
INT_MIN (-2147483647 - 1)
INT_MAX 2147483647
UINT_MAX 4294967295U
LONG_MIN (-9223372036854775807L - 1)
LONG_MAX 9223372036854775807L
ULONG_MAX 18446744073709551615UL
LLONG_MIN (-9223372036854775807LL - 1)
LLONG_MAX 9223372036854775807LL
ULLONG_MAX 18446744073709551615ULL
"""

_FLOAT = """
FLT_RADIX 2
FLT_MANT_DIG 24
FLT_DIG 6
FLT_MIN_EXP (-125)
FLT_MAX_EXP 128
FLT_EPSILON 1.19209290e-7F
FLT_MIN 1.17549435e-38F
FLT_MAX 3.40282347e+38F
DBL_MANT_DIG 53
DBL_DIG 15
DBL_MIN_EXP (-1021)
DBL_MAX_EXP 1024
DBL_EPSILON 2.2204460492503131e-16
DBL_MIN 2.2250738585072014e-308
DBL_MAX 1.7976931348623157e+308
"""

_MATH = """
INFINITY __int_as_float(0x7f800000)
NAN __int_as_float(0x7fffffff)
HUGE_VALF INFINITY
HUGE_VAL __longlong_as_double(0x7ff0000000000000LL)
M_E 2.7182818284590452354
M_LOG2E 1.4426950408889634074
M_LOG10E 0.43429448190325182765
M_LN2 0.69314718055994530942
M_LN10 2.30258509299404568402
M_PI 3.14159265358979323846
M_PI_2 1.57079632679489661923
M_PI_4 0.78539816339744830962
M_1_PI 0.31830988618379067154
M_2_PI 0.63661977236758134308
M_2_SQRTPI 1.12837916709551257390
M_SQRT2 1.41421356237309504880
M_SQRT1_2 0.70710678118654752440
"""
_MATH_NAMES = (
    "abs fabs fmod fma fmax fmin fdim exp exp2 expm1 log log10 log2 log1p pow sqrt cbrt hypot sin cos tan asin acos "
    "atan atan2 sinh cosh tanh asinh acosh atanh erf erfc tgamma lgamma ceil floor trunc round nearbyint rint frexp "
    "ldexp modf copysign isnan isinf isfinite signbit"
)

STAND_INS: dict[str, str] = {
    "stdint.h": _ONCE + _TYPES + _macros(_INT_RANGES),
    "inttypes.h": _ONCE + "#include <stdint.h>\n",
    "limits.h": _ONCE + _macros(_LIMITS),
    "float.h": _ONCE + _macros(_FLOAT),
    "math.h": _ONCE + _macros(_MATH),
    "stddef.h": _ONCE + "#ifndef NULL\n#define NULL 0\n#endif\n"
    "#ifndef offsetof\n#define offsetof(type, member) __builtin_offsetof(type, member)\n#endif\n",
    "stdio.h": _BUILT_IN,
    "stdlib.h": _ONCE + "#include <stddef.h>\n",
    "string.h": _ONCE + "#include <stddef.h>\n",
    "assert.h": _BUILT_IN,
    "cstdint": _in_std("stdint.h", _INT_NAMES),
    "climits": _ONCE + "#include <limits.h>\n",
    "cfloat": _ONCE + "#include <float.h>\n",
    "cmath": _in_std("math.h", _MATH_NAMES),
    "cstddef": _in_std("stddef.h", "size_t ptrdiff_t"),
    "cstdio": _BUILT_IN,
    "cstdlib": _in_std("stdlib.h", "size_t abs"),
    "cstring": _in_std("string.h", "size_t memcpy memset"),
    "cassert": _BUILT_IN,
}
# NVRTC declares their contents by itself. Needed only where there is no toolkit with the real ones.
WITHOUT_TOOLKIT: dict[str, str] = dict.fromkeys(
    ("cuda_runtime.h", "cuda_runtime_api.h", "device_launch_parameters.h"), _BUILT_IN
)
