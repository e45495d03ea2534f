// The hits of one worker for one query, and its candidates: vectors whose bound reaches the threshold, not yet
// rescored.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "care/topk.hpp"
#include "kernels/kernel.hpp"

namespace care {

class Candidates {
public:
    explicit Candidates(std::size_t k) : k_(k), best_(k), capacity_(next_capacity(0)) {}

    void push(float bound, std::int64_t id) { pending_.push_back({bound, id}); }

    bool needs_compaction() const { return pending_.size() >= capacity_; }
    // How many vectors were rescored.
    std::size_t rescored() const { return rescored_; }
    const TopK& best() const { return best_; }

    // Rescores the k candidates with the best bounds, and drops those below the threshold. `score` writes exact scores
    // of some ids, and its prefetch() fetches the vector of one; `update_threshold` takes the hits found so far and returns the threshold that they allow.
    template <typename Score, typename UpdateThreshold>
    void compact(const Score& score, const UpdateThreshold& update_threshold) {
        drop_below(update_threshold(best_));
        const std::size_t count = std::min(k_, pending_.size());
        std::nth_element(pending_.begin(), pending_.end() - static_cast<std::ptrdiff_t>(count), pending_.end(),
                         [](const Candidate& a, const Candidate& b) { return a.bound < b.bound; });
        rescore_last(count, score);
        drop_below(update_threshold(best_));
        capacity_ = next_capacity(pending_.size());
    }

    // Compacts, and then rescores all that is left, in memory order.
    template <typename Score, typename UpdateThreshold>
    void finish(const Score& score, const UpdateThreshold& update_threshold) {
        compact(score, update_threshold);
        std::sort(pending_.begin(), pending_.end(),
                  [](const Candidate& a, const Candidate& b) { return a.id > b.id; });
        rescore_last(pending_.size(), score);
    }

private:
    static constexpr std::size_t kAhead = 2 * kScoredTogether;

    struct Candidate {
        float bound;
        std::int64_t id;
    };

    // Compaction is frequent enough for the threshold to rise early, and rare enough to cost little.
    std::size_t next_capacity(std::size_t size) const { return size + std::max<std::size_t>({2 * k_, 64, size}); }

    void drop_below(float threshold) {
        std::erase_if(pending_, [threshold](const Candidate& c) { return c.bound < threshold; });
    }

    template <typename Score>
    void rescore_last(std::size_t count, const Score& score) {
        rescored_ += count;
        // Vectors lie apart from one another: the next ones are on their way from memory while these are scored.
        for (std::size_t i = 0; i < std::min(count, kAhead); ++i) score.prefetch(pending_[pending_.size() - 1 - i].id);
        while (count > 0) {
            const std::size_t now = std::min(count, kScoredTogether);
            for (std::size_t i = kAhead; i < std::min(count, kAhead + now); ++i) {
                score.prefetch(pending_[pending_.size() - 1 - i].id);
            }
            std::int64_t ids[kScoredTogether];
            double scores[kScoredTogether];
            for (std::size_t i = 0; i < now; ++i, pending_.pop_back()) ids[i] = pending_.back().id;
            score(ids, now, scores);
            for (std::size_t i = 0; i < now; ++i) best_.push({scores[i], ids[i]});
            count -= now;
        }
    }

    std::size_t k_;
    TopK best_;
    std::vector<Candidate> pending_;
    std::size_t capacity_;
    std::size_t rescored_ = 0;
};

}  // namespace care
