// The k best hits of a stream, under one total order: higher score first, among equals the smaller id.
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

CARE_BOTH inline bool better(const Hit& a, const Hit& b) {
    return a.score != b.score ? a.score > b.score : a.id < b.id;
}

// Keeps the k best of what is pushed. Which they are does not depend on the order of pushing, so parts of
// an index may be scanned apart and merged.
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

    // Whether k hits are kept, and the last of them: what is worse than it need not be pushed.
    bool full() const { return heap_.size() == k_; }
    const Hit& last() const { return heap_.front(); }

    // The hits, best first.
    std::vector<Hit> sorted() const {
        std::vector<Hit> hits = heap_;
        // Not std::sort: that may leave the array if a damaged file brings NaN.
        std::sort_heap(hits.begin(), hits.end(), better);
        return hits;
    }

private:
    std::size_t k_;
    std::vector<Hit> heap_;  // the worst of the kept in front
};

}  // namespace care
