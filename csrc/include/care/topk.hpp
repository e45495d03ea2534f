// Top-k selection under a total order: higher score first, among equal scores the smaller id.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "care/host_device.hpp"

namespace care {

struct Hit {
    double score;
    std::int64_t id;
};

CARE_HOST_DEVICE inline bool better(const Hit& a, const Hit& b) {
    return a.score != b.score ? a.score > b.score : a.id < b.id;
}

// Keeps the k best hits. The result does not depend on the order of pushes, so parts of an index may be scanned apart
// and merged.
class TopK {
public:
    explicit TopK(std::size_t k) : k_(k) {}

    void push(const Hit& hit) {
        if (heap_.size() < k_) {
            heap_.push_back(hit);
            std::push_heap(heap_.begin(), heap_.end(), better);
        } else if (k_ > 0 && better(hit, heap_.front())) {
            std::pop_heap(heap_.begin(), heap_.end(), better);
            heap_.back() = hit;
            std::push_heap(heap_.begin(), heap_.end(), better);
        }
    }

    void merge(const TopK& other) {
        for (const Hit& hit : other.heap_) push(hit);
    }

    // Whether there are k hits. If so, kth() is the worst of them, and nothing worse needs to be pushed.
    bool full() const { return heap_.size() == k_; }
    const Hit& kth() const { return heap_.front(); }

    // The hits, best first.
    std::vector<Hit> sorted() const {
        std::vector<Hit> hits = heap_;
        // Not std::sort, which may read beyond the array if a damaged file contains NaN.
        std::sort_heap(hits.begin(), hits.end(), better);
        return hits;
    }

private:
    std::size_t k_;
    std::vector<Hit> heap_;  // the worst hit in front
};

}  // namespace care
