// One pass over the index for a batch of queries: filter tile by tile, collect candidates, rescore them.
//
// Workers claim tiles. For each query they share a threshold, which rises with the exact scores that any of them has
// found, and each of them keeps candidates of its own.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "candidates.hpp"
#include "index_view.hpp"
#include "kernels/kernel.hpp"
#include "query_batch.hpp"
#include "tiles.hpp"
#include "../threads/workers.hpp"

namespace care {

// Pruning has failed for a query if more than one in so many vectors became a candidate, beyond an allowance of
// kExpectedCandidates and 8 k. After int4 codes, int8 codes take over, and after these float32 vectors. To rescore a vector
// takes as long as to read the int8 codes of six.
inline constexpr std::size_t kMaxCandidateShare = 16, kMaxInt4Share = 32;
inline constexpr std::size_t kExpectedCandidates = 512;
// One vector in so many is scanned before bounds are refined. Then the second term is tried on so many blocks for each query,
// again and again, and has to exclude a vector in every second of them: of one block it takes half as long as to rescore a vector.
inline constexpr std::size_t kUnrefinedShare = 16, kRefinementTrial = 8, kBlocksPerExcluded = 2;

// Which kernels a pass uses.
struct FilterPlan {
    Filter* filter;
    bool check_pruning;  // whether to stop for queries whose pruning fails
    bool needs_scratch;
    bool claim_ahead = false;  // whether to claim the next tile early, so that `filter` can prefetch it
    Int4Filter* int4_filter = nullptr;  // used instead of `filter` as long as it prunes, or null
};

class ScanPass {
public:
    ScanPass(const IndexView& index, const QueryBatch& queries, const FilterPlan& plan)
        : index_(index), batch_(queries), plan_(plan), thresholds_(queries.count()), pruning_failed_(queries.count()) {
        for (auto& value : thresholds_) value.store(-kInfinity, std::memory_order_relaxed);
    }

    // Scans the whole index on so many workers, in tiles of so many blocks.
    void run(std::size_t workers, std::size_t tile_blocks);

    bool pruning_failed(std::size_t query) const { return pruning_failed_[query].load(std::memory_order_relaxed); }

    // The hits of all workers, merged. Adds the number of rescored vectors to `rescored`.
    std::vector<Hit> hits(std::size_t query, std::int64_t& rescored) const {
        TopK best(index_.options.k);
        for (const std::vector<Candidates>& found : found_) {
            if (found.empty()) continue;  // the system refused this worker's thread
            best.merge(found[query].best());
            rescored += static_cast<std::int64_t>(found[query].rescored());
        }
        return best.sorted();
    }

private:
    static constexpr float kInfinity = std::numeric_limits<float>::infinity();

    // Memory of one worker.
    struct Workspace {
        Workspace(std::size_t queries, std::size_t tile_blocks, std::size_t scratch_floats)
            : thresholds(queries),
              masks(queries * tile_blocks),
              bounds(std::make_unique_for_overwrite<float[]>(kBlock * queries * tile_blocks)),
              candidates(queries),
              scratch_(scratch_floats ? scratch_floats + kAlignment : 0) {}

        float* scratch() {
            void* at = scratch_.data();
            std::size_t space = scratch_.size() * sizeof(float);
            return static_cast<float*>(std::align(kAlignment, 1, at, space));
        }

        std::vector<float> thresholds;
        std::vector<std::uint16_t> masks;
        std::unique_ptr<float[]> bounds;  // mostly never written, so its pages are not touched
        std::vector<std::size_t> candidates;  // of `filter`, by query
        std::size_t int4_candidates = 0;
        Refinement refinement;        // of `filter`, since it was last found to pay
        std::size_t refined_from = 0;  // vectors to scan by `filter` before it is used
        std::size_t scanned = 0, scanned_by_filter = 0, scanned_by_int4 = 0;  // vectors
        std::size_t int4_from = 0;  // vectors to scan before the int4 filter is used

    private:
        static constexpr std::size_t kAlignment = 64;
        std::vector<float> scratch_;
    };

    // Computes exact scores of a query.
    struct Scorer {
        const IndexView& index;
        const double* query;

        const float* vector(std::int64_t id) const {
            return index.vectors.data + static_cast<std::size_t>(id) * index.vectors.width;
        }
        void prefetch(std::int64_t id) const {
            constexpr std::size_t kLine = 64 / sizeof(float);
            for (std::size_t at = 0; at < index.query_width; at += kLine) __builtin_prefetch(vector(id) + at);
        }
        // Up to kScoredTogether, in one go: to score the last one several times takes no longer than to score it alone.
        void operator()(const std::int64_t* ids, std::size_t count, double (&scores)[kScoredTogether]) const {
            const float* vectors[kScoredTogether];
            for (std::size_t i = 0; i < kScoredTogether; ++i) vectors[i] = vector(ids[std::min(i, count - 1)]);
            index.kernel.scores(vectors, query, index.query_width, scores);
        }
    };
    Scorer scorer(std::size_t query) const { return {index_, batch_.doubles(query)}; }

    // Raises the shared threshold of a query to that of a worker's hits, and returns the larger of the two.
    auto threshold_updater(std::size_t query) {
        return [this, query](const TopK& best) {
            std::atomic<float>& shared = thresholds_[query];
            float now = shared.load(std::memory_order_relaxed);
            if (!best.full()) return now;
            const float wanted = threshold(batch_.code(query), best.kth().score);
            while (now < wanted && !shared.compare_exchange_weak(now, wanted, std::memory_order_relaxed)) {
            }
            return std::max(now, wanted);
        };
    }

    // Returns false if pruning has failed for all queries.
    bool load_thresholds(std::vector<float>& thresholds) const {
        bool any = false;
        for (std::size_t q = 0; q < thresholds.size(); ++q) {
            const bool active = !pruning_failed(q);
            thresholds[q] = active ? thresholds_[q].load(std::memory_order_relaxed) : kInfinity;
            any |= active;
        }
        return any;
    }

    // Calls work(begin, end) for runs of blocks that contain allowed vectors.
    template <typename Work>
    void for_each_run(Tiles::Range range, const Work& work) const {
        if (!index_.options.allowed) return work(range.begin, range.end);
        for (std::size_t begin = range.begin; begin < range.end;) {
            std::size_t end = begin;
            while (end < range.end && index_.allowed(end)) ++end;
            if (end > begin) work(begin, end);
            begin = end + 1;
        }
    }

    // Filters by int4 and residual codes. Where pruning fails, int8 codes take over until four times as many vectors have been
    // scanned and the threshold has risen.
    void filter_by_int4(std::size_t begin, std::size_t end, Workspace& space, std::vector<Candidates>& found) {
        const Tile tile = index_.tile(begin, end - begin, std::nullopt, nullptr);
        for (std::size_t b = 0; b < tile.blocks; ++b) space.masks[b] = index_.allowed(begin + b);
        plan_.int4_filter(tile, batch_.int4_query(), space.thresholds[0], space.masks.data(), space.bounds.get());
        collect(begin, tile.blocks, space, found, &space.int4_candidates);
        space.scanned_by_int4 += tile.blocks * kBlock;
        if (space.int4_candidates > space.scanned_by_int4 / kMaxInt4Share + allowed_candidates()) {
            // The allowance is for the first vectors, before there is a threshold.
            space.int4_candidates = allowed_candidates(), space.scanned_by_int4 = 0;
            space.int4_from = 4 * (space.scanned + tile.blocks * kBlock);
        }
    }

    void filter(std::size_t begin, std::size_t end, std::optional<std::size_t> next, Workspace& space,
                std::vector<Candidates>& found) {
        const Tile tile = index_.tile(begin, end - begin, next, space.scratch());
        Queries queries = batch_.queries();
        queries.refinement = refinement(space);
        plan_.filter(tile, queries, space.thresholds.data(), space.masks.data(), space.bounds.get());
        collect(begin, tile.blocks, space, found, space.candidates.data());
        space.scanned_by_filter += tile.blocks * kBlock;
    }

    // Whether vectors that pass by one term of a query are tested by both: null if not. It does not pay while the threshold
    // rises fast, as most of what passes then is dropped without being rescored, anyway. Nor where it leaves most of what
    // passed: then it is tried again when twice as many vectors have been scanned.
    Refinement* refinement(Workspace& space) const {
        Refinement& latest = space.refinement;
        if (space.scanned_by_filter < space.refined_from) return nullptr;
        if (latest.blocks >= kRefinementTrial * batch_.count()) {
            const bool pays = latest.vectors - latest.left >= latest.blocks / kBlocksPerExcluded;
            latest = {};
            if (!pays) {
                space.refined_from = 2 * space.scanned_by_filter;
                return nullptr;
            }
        }
        return &latest;
    }

    // Pushes the vectors that passed a filter as candidates. `counts` counts them by query.
    void collect(std::size_t begin, std::size_t count, Workspace& space, std::vector<Candidates>& found,
                 std::size_t* counts) {
        const std::size_t queries = batch_.count(), size = count * queries;
        const std::uint16_t* masks = space.masks.data();
        // Few vectors pass: masks are looked at four at a time.
        for (std::size_t i = 0; i < size;) {
            std::uint64_t four = 0;
            std::memcpy(&four, masks + i, std::min<std::size_t>(4, size - i) * sizeof *masks);
            const std::size_t end = std::min(size, i + 4);
            if (four == 0) {
                i = end;
                continue;
            }
            for (; i < end; ++i) {
                if (masks[i]) collect_block(begin + i / queries, i % queries, i, space, found, counts);
            }
        }
    }

    // The same for a block and a query, whose mask and bounds are at `place`.
    void collect_block(std::size_t block, std::size_t q, std::size_t place, Workspace& space,
                       std::vector<Candidates>& found, std::size_t* counts) {
        const std::uint32_t mask = space.masks[place] & index_.allowed(block);
        if (mask == 0 || pruning_failed(q)) return;
        float& threshold = space.thresholds[q];
        const float* bounds = space.bounds.get() + place * kBlock;
        for (std::uint32_t left = mask; left; left &= left - 1) {
            const std::size_t lane = static_cast<std::size_t>(__builtin_ctz(left));
            if (bounds[lane] < threshold) continue;
            // NaN comes from a damaged file: such a vector is always rescored.
            const float bound = std::isnan(bounds[lane]) ? kInfinity : bounds[lane];
            found[q].push(bound, static_cast<std::int64_t>(block * kBlock + lane));
            ++counts[q];
        }
        if (found[q].needs_compaction()) {
            found[q].compact(scorer(q), threshold_updater(q));
            threshold = thresholds_[q].load(std::memory_order_relaxed);
        }
    }

    std::size_t allowed_candidates() const { return 8 * index_.options.k + kExpectedCandidates; }

    void check_pruning(const Workspace& space) {
        const std::size_t max_candidates = space.scanned_by_filter / kMaxCandidateShare + allowed_candidates();
        for (std::size_t q = 0; q < batch_.count(); ++q) {
            if (space.candidates[q] > max_candidates) pruning_failed_[q].store(true, std::memory_order_relaxed);
        }
    }

    const IndexView& index_;
    const QueryBatch& batch_;
    const FilterPlan& plan_;
    std::vector<std::atomic<float>> thresholds_;
    std::vector<std::atomic<bool>> pruning_failed_;
    std::vector<std::vector<Candidates>> found_;  // by worker and query
};

inline void ScanPass::run(std::size_t workers, std::size_t tile_blocks) {
    found_.resize(workers);
    Tiles tiles(blocks(index_.vectors.rows), tile_blocks);
    run_workers(workers, [&](std::size_t worker) {
        std::vector<Candidates>& found = found_[worker];
        found.assign(batch_.count(), Candidates(index_.options.k));
        Workspace space(batch_.count(), tile_blocks,
                        plan_.needs_scratch ? kScratchBlocks * kBlock * index_.query_width : 0);
        space.refined_from = index_.vectors.rows / kUnrefinedShare / workers;
        for (auto range = tiles.claim(); range;) {
            const auto later = plan_.claim_ahead ? tiles.claim() : std::nullopt;
            const auto next = later ? std::optional(later->begin) : std::nullopt;
            if (!load_thresholds(space.thresholds)) return;
            for_each_run(*range, [&](std::size_t begin, std::size_t end) {
                std::size_t from = begin;
                while (plan_.int4_filter && from < end && space.scanned >= space.int4_from) {
                    // The first try is on a quarter of a tile: if pruning fails, few candidates are left of it.
                    const std::size_t tried = space.scanned_by_int4 > 0 ? end : from + (end - from + 3) / 4;
                    filter_by_int4(from, tried, space, found);
                    from = tried;
                }
                if (from < end) filter(from, end, next, space, found);
                space.scanned += (end - begin) * kBlock;
            });
            if (plan_.check_pruning) check_pruning(space);
            range = plan_.claim_ahead ? later : tiles.claim();
        }
        for (std::size_t q = 0; q < batch_.count(); ++q) {
            if (pruning_failed(q)) continue;
            found[q].finish(scorer(q), threshold_updater(q));
        }
    });
}

}  // namespace care
