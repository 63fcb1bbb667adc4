// CUDA C++ for a host compiler: what every module sees before its first line. Kept light, since each module pays for
// it: no containers, streams or threads here; those are in the runtime library.
#pragma once

#include <stddef.h>
#include <stdint.h>

// <cmath> in C++17 brings the special functions (0.15 s to compile), which CUDA does not have in this form.
#if defined(__has_include)
#if __has_include(<bits/c++config.h>)
#include <bits/c++config.h>
#undef _GLIBCXX_USE_STD_SPEC_FUNCS
#endif
#endif
#include <math.h>
#include <string.h>
#include <type_traits>

#include "kaasq_runtime.h"

#include "kaasq_language.h"
#include "kaasq_vector_types.h"
#include "kaasq_bits.h"
#include "kaasq_lanes.h"
#include "kaasq_math.h"
#include "kaasq_special.h"
#include "kaasq_atomics.h"
#include "kaasq_warp.h"
#include "kaasq_half.h"
#include "kaasq_half_more.h"
#include "kaasq_strided.h"
#include "kaasq_launch.h"
