// Built once for each instruction set, under the name CARE_KERNEL. No function of the files included here may have
// external linkage: the linker could share it with a source built for an older processor.
#include "code_filter.hpp"
#include "float_filter.hpp"
#include "int4_filter.hpp"

namespace care {

extern const Kernel CARE_KERNEL;
const Kernel CARE_KERNEL{CARE_INSTRUCTION_SET, kQueryCodeLimit, filter_codes<1>, filter_codes<2>,
                         filter_int4, filter_floats, exact_scores};

}  // namespace care
