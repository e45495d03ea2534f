#include <stdexcept>
#include <string>

#include "kernel.hpp"

namespace care {

extern const Kernel scan_kernel_portable;
#ifdef CARE_X86
extern const Kernel scan_kernel_avx2, scan_kernel_avxvnni, scan_kernel_avx512vnni;
#endif

namespace {

std::vector<Kernel> find_kernels() {
    std::vector<Kernel> found;
#ifdef CARE_X86
    if (__builtin_cpu_supports("avx512vnni")) found.push_back(scan_kernel_avx512vnni);
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avxvnni")) found.push_back(scan_kernel_avxvnni);
    if (avx2) found.push_back(scan_kernel_avx2);
#endif
    found.push_back(scan_kernel_portable);
    return found;
}

}  // namespace

const std::vector<Kernel>& kernels() {
    static const std::vector<Kernel> found = find_kernels();
    return found;
}

const Kernel& kernel(std::string_view instruction_set) {
    if (instruction_set.empty()) return kernels().front();
    for (const Kernel& candidate : kernels()) {
        if (candidate.instruction_set == instruction_set) return candidate;
    }
    throw std::invalid_argument("no kernel for the instruction set '" + std::string(instruction_set) +
                                "' on this processor");
}

}  // namespace care
