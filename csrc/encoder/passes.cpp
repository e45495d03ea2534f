#include "passes.hpp"

#include <algorithm>

namespace care {
namespace {

// Tokens of a pass of one thread: enough to read the weights seldom, and few enough for its activations to stay near.
constexpr std::size_t kTokens = 256, kTokensTogether = 512;
// With fewer for each thread they share passes: there every thread reads a part of the weights only.
constexpr std::size_t kFewestTokens = 128;

// Divides a call into about `pieces` of the same number of tokens: a text belongs where its middle lies.
std::vector<Batch> divide_evenly(const Batch& call, std::size_t width, std::size_t pieces) {
    std::vector<Batch> found;
    std::size_t start = 0, last = 0;
    for (std::size_t text = 0; text < call.texts; ++text) {
        const std::size_t length = static_cast<std::size_t>(call.lengths[text]);
        const std::size_t piece = (2 * start + length) * pieces / (2 * call.tokens);
        if (found.empty() || piece != last) {
            found.push_back({call.ids + start, call.lengths + text, 0, 0, call.vectors + text * width});
        }
        last = piece;
        ++found.back().texts;
        found.back().tokens += length;
        start += length;
    }
    return found;
}

std::size_t pieces_of(std::size_t tokens, std::size_t most) { return (tokens + most - 1) / most; }

}  // namespace

Passes divide(const Batch& call, std::size_t width, std::size_t threads) {
    Passes passes;
    if (threads == 1 || call.tokens >= threads * kFewestTokens) {
        const std::size_t pieces = (pieces_of(call.tokens, kTokens) + threads - 1) / threads * threads;
        passes.alone = divide_evenly(call, width, pieces);
        const auto longer = [](const Batch& a, const Batch& b) { return a.tokens > b.tokens; };
        std::stable_sort(passes.alone.begin(), passes.alone.end(), longer);
        // While some threads had the passes that are left over, the others would wait.
        const auto whole = passes.alone.begin() + static_cast<std::ptrdiff_t>(passes.alone.size() / threads * threads);
        passes.together.assign(whole, passes.alone.end());
        passes.alone.erase(whole, passes.alone.end());
    } else {
        passes.together = divide_evenly(call, width, pieces_of(call.tokens, kTokensTogether));
    }
    return passes;
}

}  // namespace care
