// Which of the scan's kernels this processor can run.
#pragma once

#include <string_view>
#include <vector>

#include "tile_scores.hpp"

namespace care {

struct Kernel {
    std::string_view instruction_set;
    TileScores* tile_scores;
};

// The kernels that this processor can run, the fastest first.
const std::vector<Kernel>& kernels();

// The kernel of that name, or the fastest if the name is empty. Throws std::invalid_argument.
const Kernel& kernel(std::string_view instruction_set);

}  // namespace care
