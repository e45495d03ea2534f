#include <stdexcept>
#include <string>

#include "kernel.hpp"

namespace care {

// Only those that CMakeLists.txt builds are defined, and used below.
extern const Kernel scan_kernel_portable, scan_kernel_avx2, scan_kernel_avxvnni, scan_kernel_avx512vnni;

namespace {

std::vector<Kernel> find_kernels() {
    std::vector<Kernel> found;
#ifdef CARE_AVX512VNNI
    if (__builtin_cpu_supports("avx512vnni")) found.push_back(scan_kernel_avx512vnni);
#endif
#ifdef CARE_AVXVNNI
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("avxvnni")) {
        found.push_back(scan_kernel_avxvnni);
    }
#endif
#ifdef CARE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(scan_kernel_avx2);
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
