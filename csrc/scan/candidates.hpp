// What one worker has found for one query: exact hits, and vectors that may become hits.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "care/topk.hpp"

namespace care {

class Candidates {
public:
    explicit Candidates(std::size_t k) : k_(k), best_(k), room_(grown(0)) {}

    // `rough`: whether the bound can be lowered.
    void push(float bound, std::int64_t id, bool rough) { pending_.push_back({bound, rough, id}); }

    bool crowded() const { return pending_.size() >= room_; }
    // How many were scored exactly.
    std::size_t scored() const { return scored_; }
    const TopK& best() const { return best_; }

    // Scores the k with the best bounds; `score` gives the exact one, `raise` takes the k-th best when there is one
    // and returns the least bound that still matters. What lies below that is dropped.
    template <typename Score, typename Raise>
    void tighten(const Score& score, const Raise& raise) {
        drop(raise(best_));
        const std::size_t count = std::min(k_, pending_.size());
        std::nth_element(pending_.begin(), pending_.end() - static_cast<std::ptrdiff_t>(count), pending_.end(),
                         [](const Candidate& a, const Candidate& b) { return a.bound < b.bound; });
        score_last(count, score);
        drop(raise(best_));
        room_ = grown(pending_.size());
    }

    // Lowers the rough bounds that still matter, after tightening.
    template <typename Score, typename Raise, typename Refine>
    void refine(const Score& score, const Raise& raise, const Refine& refined) {
        tighten(score, raise);
        constexpr std::size_t kAhead = 16;
        for (std::size_t i = 0; i < pending_.size(); ++i) {
            if (i + kAhead < pending_.size()) refined.prefetch(pending_[i + kAhead].id);
            Candidate& one = pending_[i];
            if (one.rough) one.bound = refined(one.id, one.bound), one.rough = false;
        }
    }

    // Tightens, and then scores all that is left, in the order of their places in memory.
    template <typename Score, typename Raise>
    void finish(const Score& score, const Raise& raise) {
        tighten(score, raise);
        std::sort(pending_.begin(), pending_.end(),
                  [](const Candidate& a, const Candidate& b) { return a.id > b.id; });
        score_last(pending_.size(), score);
    }

private:
    struct Candidate {
        float bound;
        bool rough;
        std::int64_t id;
    };

    // Often enough that the threshold follows what was found, seldom enough that it costs little.
    std::size_t grown(std::size_t left) const { return left + std::max<std::size_t>({2 * k_, 64, left}); }

    void drop(float least) {
        std::erase_if(pending_, [least](const Candidate& c) { return c.bound < least; });
    }

    template <typename Score>
    void score_last(std::size_t count, const Score& score) {
        for (; count > 0; --count) {
            const std::int64_t id = pending_.back().id;
            pending_.pop_back();
            best_.push({score(id), id});
            ++scored_;
        }
    }

    std::size_t k_;
    TopK best_;
    std::vector<Candidate> pending_;
    std::size_t room_;
    std::size_t scored_ = 0;
};

}  // namespace care
