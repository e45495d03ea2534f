#include "kernels.hpp"

#include <stdexcept>
#include <string>

namespace care {
namespace {

std::vector<Kernel> find_kernels() {
    std::vector<Kernel> found;
#ifdef CARE_X86
    if (__builtin_cpu_supports("avx512f")) found.push_back({"avx512", tile_scores_avx512});
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        found.push_back({"avx2", tile_scores_avx2});
    }
#endif
    found.push_back({"portable", tile_scores_portable});
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
