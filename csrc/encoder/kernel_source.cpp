// Built once for each instruction set, under the name CARE_KERNEL. No function of the files included here may have
// external linkage: the linker could share it with a source built for an older processor.
#include "attention.hpp"
#include "product.hpp"
#include "row_functions.hpp"

namespace care {

extern const EncoderKernel CARE_KERNEL;
const EncoderKernel CARE_KERNEL{CARE_INSTRUCTION_SET,
                                {multiply<Float32Words>, multiply<CodeWords>},
                                {multiply_gated<Float32Words>, multiply_gated<CodeWords>},
                                add_norm,
                                quantize,
                                attend};

}  // namespace care
