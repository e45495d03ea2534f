#include "care/scan.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>

#include "arithmetic.hpp"
#include "candidates.hpp"
#include "kernel.hpp"
#include "pass.hpp"
#include "tiles.hpp"
#include "workers.hpp"

namespace care {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Queries that go over the vectors together, and the vectors that they share in the second-level cache.
constexpr std::size_t kPassQueries = 128;
constexpr std::size_t kTileBytes = 96 * 1024;
// Up to this many queries memory is the limit: both terms cost nothing, and longer tiles are read faster, as long as there
// are enough of them for all threads to end together.
constexpr std::size_t kFewQueries = 4;
constexpr std::size_t kFewQueriesTileBytes = 1536 * 1024, kLeastTileBytes = 16 * 1024;
constexpr std::size_t kFewQueriesTiles = 64;
// Bounds what a pass collects, 256 MiB, when k is large.
constexpr std::size_t kPassHits = 16 * 1024 * 1024;
// With fewer bytes of codes times queries than this a thread takes longer to start than to do its share.
constexpr std::size_t kBytesPerThread = 2 * 1024 * 1024;
// Codes do not pay for a query when more than every sixteenth vector has to be scored exactly.
constexpr std::size_t kHopelessShare = 16;
constexpr std::size_t kHopelessFloor = 512;
// Halves do not pay where they leave more than one vector in as many: each has to be looked for far away in memory.
constexpr std::size_t kHalvesShare = 16, kFarHalvesShare = 3;
// The part of an index that is scanned by codes first, so that thresholds are there: by halves nearly all would be left.
constexpr std::size_t kHalvesStart = 32;
// Beyond these units a query in the units of its index would leave float32.
constexpr int kFloatExponent = 100;

// How a pass filters: everything that both ways have in common is below.
struct Way {
    Filter* filter;
    Bounds* bounds;
    bool may_give_up;
    bool needs_room;
    // What comes before it where that pays, or null.
    HalfFilter* half_filter = nullptr;
};

// What one worker writes to.
struct Workspace {
    Workspace(std::size_t queries, std::size_t tile_blocks, bool halves, std::size_t floats)
        : thresholds(queries),
          masks(queries * tile_blocks),
          bounds(kBlock * (halves ? tile_blocks : 1)),
          left_by_codes(queries),
          floats_(floats ? floats + kAlignment : 0) {}

    float* room() {
        void* at = floats_.data();
        std::size_t space = floats_.size() * sizeof(float);
        return static_cast<float*>(std::align(kAlignment, 1, at, space));
    }

    std::vector<float> thresholds;
    std::vector<std::uint16_t> masks;
    std::vector<float> bounds;
    std::vector<std::size_t> left_by_codes;   // vectors that were not ruled out, by query
    std::size_t seen = 0, seen_by_codes = 0;  // vectors
    std::size_t halves_from = 0;              // how many are to be seen before halves are tried

private:
    static constexpr std::size_t kAlignment = 64;
    std::vector<float> floats_;
};

// One pass over the vectors.
class Scan {
    // What candidates are scored with.
    auto scorer(std::size_t query) const {
        return [this, query](std::int64_t id) {
            const std::size_t row = static_cast<std::size_t>(id);
            return index_.kernel.score(index_.vectors.data + row * index_.vectors.width, pass_.doubles(query),
                                       index_.searched);
        };
    }

    // What bounds from halves are lowered with. Quarters lie far from one another: the next are asked for beforehand.
    struct Refined {
        const Index& index;
        const Queries queries;

        float operator()(std::int64_t id, float bound) const {
            const float found = index.kernel.refine(*index.codes.halves, static_cast<std::size_t>(id), queries, bound);
            return std::isnan(found) ? kInfinity : found;
        }
        void prefetch(std::int64_t id) const {
            const std::size_t bytes = quarter_bytes(index.searched);
            const std::uint8_t* row = index.codes.halves->quarters + static_cast<std::size_t>(id) * bytes;
            for (std::size_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at);
        }
    };

    // Makes what one worker knows of a query known to all.
    auto raiser(std::size_t query) {
        return [this, query](const TopK& best) {
            std::atomic<float>& shared = thresholds_[query];
            float now = shared.load(std::memory_order_relaxed);
            if (!best.full()) return now;
            const float wanted = threshold(pass_.code(query), best.last().score);
            while (now < wanted && !shared.compare_exchange_weak(now, wanted, std::memory_order_relaxed)) {
            }
            return std::max(now, wanted);
        };
    }

public:
    Scan(const Index& index, const Pass& pass, const Way& way)
        : index_(index), pass_(pass), way_(way), thresholds_(pass.count()), hopeless_(pass.count()) {
        for (auto& value : thresholds_) value.store(-kInfinity, std::memory_order_relaxed);
    }

    void run(std::size_t workers, std::size_t tile_blocks) {
        found_.resize(workers);
        Tiles tiles(blocks(index_.vectors.rows), tile_blocks);
        run_workers(workers, [&](std::size_t worker) {
            std::vector<Candidates>& found = found_[worker];
            found.assign(pass_.count(), Candidates(index_.how.k));
            Workspace space(pass_.count(), tile_blocks, way_.half_filter,
                            way_.needs_room ? kRoomBlocks * kBlock * index_.searched : 0);
            space.halves_from = index_.vectors.rows / kHalvesStart / workers;
            while (const auto range = tiles.claim()) {
                if (!take_thresholds(space.thresholds)) return;
                for_each_run(*range, [&](std::size_t begin, std::size_t end) {
                    const bool try_halves = way_.half_filter && space.seen >= space.halves_from;
                    if (!try_halves || !filter_by_halves(begin, end, space, found)) {
                        filter_by_codes(begin, end, space, found);
                    }
                    space.seen += (end - begin) * kBlock;
                });
                if (way_.may_give_up) give_up(space);
            }
            for (std::size_t q = 0; q < pass_.count(); ++q) {
                if (hopeless(q)) continue;
                if (way_.half_filter) found[q].refine(scorer(q), raiser(q), Refined{index_, pass_.queries()});
                found[q].finish(scorer(q), raiser(q));
            }
        });
    }

    bool hopeless(std::size_t query) const { return hopeless_[query].load(std::memory_order_relaxed); }

    // The hits of all workers together.
    std::vector<Hit> hits(std::size_t query, std::int64_t& scored) const {
        TopK best(index_.how.k);
        for (const std::vector<Candidates>& found : found_) {
            if (found.empty()) continue;  // its thread was refused
            best.merge(found[query].best());
            scored += static_cast<std::int64_t>(found[query].scored());
        }
        return best.sorted();
    }

private:
    // False if no query is left.
    bool take_thresholds(std::vector<float>& thresholds) const {
        bool any = false;
        for (std::size_t q = 0; q < thresholds.size(); ++q) {
            const bool alive = !hopeless(q);
            thresholds[q] = alive ? thresholds_[q].load(std::memory_order_relaxed) : kInfinity;
            any |= alive;
        }
        return any;
    }

    // Calls work(begin, end) for the blocks that hold what may be found.
    template <typename Work>
    void for_each_run(Tiles::Range range, const Work& work) const {
        if (!index_.how.allowed) return work(range.begin, range.end);
        for (std::size_t begin = range.begin; begin < range.end;) {
            std::size_t end = begin;
            while (end < range.end && index_.allowed(end)) ++end;
            if (end > begin) work(begin, end);
            begin = end + 1;
        }
    }

    // False if too many are left: then there are no candidates, and codes are asked until twice as many vectors were seen,
    // for thresholds rise, or four times as many if they have far to go.
    bool filter_by_halves(std::size_t begin, std::size_t end, Workspace& space, std::vector<Candidates>& found) {
        const Tile tile = index_.tile(begin, end - begin, nullptr);
        way_.half_filter(tile, pass_.queries(), space.thresholds[0], space.masks.data(), space.bounds.data());
        std::size_t left = 0;
        for (std::size_t b = 0; b < tile.blocks; ++b) left += static_cast<std::size_t>(std::popcount(space.masks[b]));
        if (left > tile.blocks * kBlock / kHalvesShare) {
            space.halves_from = (left > tile.blocks * kBlock / kFarHalvesShare ? 4 : 2) * space.seen;
            return false;
        }
        collect(begin, tile.blocks, space, found,
                [&](std::size_t block, std::size_t) { return space.bounds.data() + block * kBlock; }, nullptr);
        return true;
    }

    void filter_by_codes(std::size_t begin, std::size_t end, Workspace& space, std::vector<Candidates>& found) {
        const Tile tile = index_.tile(begin, end - begin, space.room());
        const Queries queries = pass_.queries();
        way_.filter(tile, queries, space.thresholds.data(), space.masks.data());
        const auto bounds_of = [&](std::size_t block, std::size_t query) {
            way_.bounds(tile, block, queries, query, space.bounds.data());
            return space.bounds.data();
        };
        collect(begin, tile.blocks, space, found, bounds_of, space.left_by_codes.data());
        space.seen_by_codes += tile.blocks * kBlock;
    }

    // Makes candidates of what the masks have left: bounds_of(block, query) returns the bounds of a block. They are counted
    // by query, but for those from halves.
    template <typename BoundsOf>
    void collect(std::size_t begin, std::size_t count, Workspace& space, std::vector<Candidates>& found,
                 const BoundsOf& bounds_of, std::size_t* counts) {
        std::vector<float>& thresholds = space.thresholds;
        for (std::size_t q = 0; q < pass_.count(); ++q) {
            const std::uint16_t* row = space.masks.data() + q * count;
            for (std::size_t b = 0; b < count; ++b) {
                const std::uint32_t mask = row[b] ? row[b] & index_.allowed(begin + b) : 0;
                if (mask == 0 || hopeless(q)) continue;
                const float* bounds = bounds_of(b, q);
                for (std::uint32_t left = mask; left; left &= left - 1) {
                    const std::size_t lane = static_cast<std::size_t>(__builtin_ctz(left));
                    if (bounds[lane] < thresholds[q]) continue;
                    // No number, from a damaged file: like a vector of which nothing is known.
                    const float bound = std::isnan(bounds[lane]) ? kInfinity : bounds[lane];
                    found[q].push(bound, static_cast<std::int64_t>((begin + b) * kBlock + lane), !counts);
                    if (counts) ++counts[q];
                }
                if (found[q].crowded()) {
                    found[q].tighten(scorer(q), raiser(q));
                    thresholds[q] = thresholds_[q].load(std::memory_order_relaxed);
                }
            }
        }
    }

    void give_up(const Workspace& space) {
        const std::size_t most = space.seen_by_codes / kHopelessShare + 8 * index_.how.k + kHopelessFloor;
        for (std::size_t q = 0; q < pass_.count(); ++q) {
            if (space.left_by_codes[q] > most) hopeless_[q].store(true, std::memory_order_relaxed);
        }
    }

    const Index& index_;
    const Pass& pass_;
    const Way& way_;
    std::vector<std::atomic<float>> thresholds_;
    std::vector<std::atomic<bool>> hopeless_;
    std::vector<std::vector<Candidates>> found_;  // by worker and query
};

void write(const std::vector<Hit>& hits, std::size_t k, double* scores, std::int64_t* ids) {
    for (std::size_t i = 0; i < k; ++i) {
        const bool found = i < hits.size();
        scores[i] = found ? hits[i].score : -std::numeric_limits<double>::infinity();
        ids[i] = found ? hits[i].id : -1;
    }
}

// Searches for a few queries, by codes or by floats, and returns those for which codes did not pay.
std::vector<std::size_t> run_pass(const Index& index, const Matrix& queries, const std::vector<std::size_t>& which,
                                  bool by_floats, double* scores, std::int64_t* ids, std::int64_t* rescored) {
    std::vector<const float*> rows;
    for (const std::size_t q : which) rows.push_back(queries.data + q * queries.width);
    Pass pass(index, rows.data(), rows.size());
    if (by_floats) pass.use_floats();

    const bool few = which.size() <= kFewQueries;
    const Kernel& kernel = index.kernel;
    const bool floats_fit = std::abs(index.codes.exponent) <= kFloatExponent;
    Way way = by_floats ? Way{kernel.float_filter, kernel.float_bounds, false, true}
                        : Way{few ? kernel.fine_code_filter : kernel.code_filter, kernel.code_bounds, floats_fit, false};
    if (which.size() == 1 && !by_floats && index.codes.halves && index.searched == index.vectors.width) {
        way.half_filter = kernel.half_filter;
    }
    const std::size_t width = index.vectors.width;
    const std::size_t bytes = by_floats ? kBlock * width * sizeof(float) : block_bytes(width);
    const std::size_t all_bytes = blocks(index.vectors.rows) * bytes;
    const std::size_t tile_bytes =
        few ? std::clamp(all_bytes / kFewQueriesTiles, kLeastTileBytes, kFewQueriesTileBytes) : kTileBytes;
    const std::size_t tile_blocks = std::max<std::size_t>(4, tile_bytes / bytes / 4 * 4);
    const std::size_t work = all_bytes * (few ? 1 : which.size() / kFewQueries);
    const std::size_t workers =
        std::clamp<std::size_t>(work / kBytesPerThread, 1, std::max<std::size_t>(1, index.how.threads));

    Scan scan(index, pass, way);
    scan.run(workers, tile_blocks);
    std::vector<std::size_t> hopeless;
    for (std::size_t i = 0; i < which.size(); ++i) {
        const std::size_t q = which[i];
        if (scan.hopeless(i)) {
            hopeless.push_back(q);
        } else {
            write(scan.hits(i, rescored[q]), index.how.k, scores + q * index.how.k, ids + q * index.how.k);
        }
    }
    return hopeless;
}

}  // namespace

void search(const Matrix& vectors, const Codes& codes, const Matrix& queries, const Search& how, double* scores,
            std::int64_t* ids, std::int64_t* rescored) {
    const DefaultArithmetic arithmetic;
    const Index index{vectors, codes, how, kernel(how.instruction_set), queries.width};
    std::fill_n(rescored, queries.rows, std::int64_t{0});
    const std::size_t hits =
        std::max<std::size_t>(1, std::min(how.k, vectors.rows)) * std::max<std::size_t>(1, how.threads);
    const std::size_t most = std::clamp<std::size_t>(kPassHits / hits, 1, kPassQueries);
    for (std::size_t start = 0; start < queries.rows; start += most) {
        std::vector<std::size_t> which(std::min(most, queries.rows - start));
        std::iota(which.begin(), which.end(), start);
        which = run_pass(index, queries, which, false, scores, ids, rescored);
        if (!which.empty()) run_pass(index, queries, which, true, scores, ids, rescored);
    }
}

void as_float32(const double* scores, std::size_t count, float* rounded) {
    const DefaultArithmetic arithmetic;
    std::transform(scores, scores + count, rounded, [](double score) { return static_cast<float>(score); });
}

std::vector<std::string_view> instruction_sets() {
    std::vector<std::string_view> names;
    for (const Kernel& known : kernels()) names.push_back(known.instruction_set);
    return names;
}

}  // namespace care
