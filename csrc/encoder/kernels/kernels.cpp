#include <stdexcept>
#include <string>

#include "care/scan.hpp"
#include "kernel.hpp"

namespace care {

// Only those that CMakeLists.txt builds are defined, and used below.
extern const EncoderKernel encoder_kernel_portable, encoder_kernel_avx2, encoder_kernel_avxvnni,
    encoder_kernel_avx512vnni;

const EncoderKernel& encoder_kernel(std::string_view instruction_set) {
    // instruction_sets() of the scan lists what this processor can run.
    for (const std::string_view there : instruction_sets()) {
        if (!instruction_set.empty() && there != instruction_set) continue;
        for (const EncoderKernel* kernel : {
#ifdef CARE_AVX512VNNI
                 &encoder_kernel_avx512vnni,
#endif
#ifdef CARE_AVXVNNI
                 &encoder_kernel_avxvnni,
#endif
#ifdef CARE_AVX2
                 &encoder_kernel_avx2,
#endif
                 &encoder_kernel_portable}) {
            if (kernel->instruction_set == there) return *kernel;
        }
    }
    throw std::invalid_argument("no kernel for the instruction set '" + std::string(instruction_set) +
                                "' on this processor");
}

}  // namespace care
