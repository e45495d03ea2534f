// Hits as a caller gets them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "care/topk.hpp"

namespace care {

// Writes k hits; where there are fewer, the rest is -infinity and -1.
inline void write_hits(const std::vector<Hit>& hits, std::size_t k, double* scores, std::int64_t* ids) {
    for (std::size_t i = 0; i < k; ++i) {
        const bool found = i < hits.size();
        scores[i] = found ? hits[i].score : -std::numeric_limits<double>::infinity();
        ids[i] = found ? hits[i].id : -1;
    }
}

}  // namespace care
