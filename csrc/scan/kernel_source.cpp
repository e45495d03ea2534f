// Built once for each instruction set, under the name CARE_KERNEL. What this file includes must leave no function
// behind that the linker could share with a source built for an older processor.
#include "code_filter.hpp"
#include "float_filter.hpp"
#include "half_filter.hpp"

namespace care {

extern const Kernel CARE_KERNEL;
const Kernel CARE_KERNEL{CARE_INSTRUCTION_SET, kLimit, filter_codes<1>, filter_codes<2>, bounds_from_codes,
                         filter_halves, refined_by_quarters, filter_floats, bounds_from_floats, exact_score};

}  // namespace care
