#include "../cooperative_groups.h"
// The reductions are there already.
