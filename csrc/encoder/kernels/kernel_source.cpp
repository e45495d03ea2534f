// Built once for each instruction set, under the name CARE_KERNEL. No function of the files included here may have
// external linkage: the linker could share it with a source built for an older processor.
#include "activations.hpp"
#include "attention.hpp"
#include "product.hpp"
#include "row_functions.hpp"

namespace care {

extern const EncoderKernel CARE_KERNEL;
const EncoderKernel CARE_KERNEL{
    CARE_INSTRUCTION_SET,
    {multiply<Float32Words>, multiply<CodeWords>},
    {{multiply<Float32Words, Gelu>, multiply<Float32Words, GeluTanh>, multiply<Float32Words, Relu>,
      multiply<Float32Words, Silu>},
     {multiply<CodeWords, Gelu>, multiply<CodeWords, GeluTanh>, multiply<CodeWords, Relu>, multiply<CodeWords, Silu>}},
    {{multiply_gated<Float32Words, Gelu>, multiply_gated<Float32Words, GeluTanh>, multiply_gated<Float32Words, Relu>,
      multiply_gated<Float32Words, Silu>},
     {multiply_gated<CodeWords, Gelu>, multiply_gated<CodeWords, GeluTanh>, multiply_gated<CodeWords, Relu>,
      multiply_gated<CodeWords, Silu>}},
    add_norm,
    quantize,
    {attend<Float32Words>, attend<PairWords>}};

}  // namespace care
