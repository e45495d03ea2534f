#include "care/cuda.hpp"

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "filter.cuh"
#include "finish.cuh"
#include "runtime.cuh"

namespace care::cuda {
namespace {

using Kernel = void (*)(Arguments);

Kernel filter_of(const Plan& plan, bool sample) {
    if (plan.both_terms) {
        switch (plan.tiles) {
            case 1: return sample ? filter<1, true, true> : filter<1, true, false>;
            case 2: return sample ? filter<2, true, true> : filter<2, true, false>;
            default: return sample ? filter<4, true, true> : filter<4, true, false>;
        }
    }
    switch (plan.tiles) {
        case 1: return sample ? filter<1, false, true> : filter<1, false, false>;
        case 2: return sample ? filter<2, false, true> : filter<2, false, false>;
        case 4: return sample ? filter<4, false, true> : filter<4, false, false>;
        case 8: return sample ? filter<8, false, true> : filter<8, false, false>;
        default: return sample ? filter<kMaxTiles, false, true> : filter<kMaxTiles, false, false>;
    }
}

// The kernels that need much shared memory.
std::vector<Kernel> large_kernels() {
    std::vector<Kernel> found{encode_queries, update_thresholds, finish, score_all};
    for (const bool both : {false, true}) {
        for (std::size_t tiles = 1; tiles <= kMaxTiles; tiles *= 2) {
            for (const bool sample : {false, true}) {
                Plan plan{};
                plan.both_terms = both;
                plan.tiles = tiles;
                found.push_back(filter_of(plan, sample));
            }
        }
    }
    return found;
}

std::size_t attribute(cudaDeviceAttr which, int device) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "reading the attributes of the GPU");
    return static_cast<std::size_t>(value);
}

}  // namespace

std::size_t max_width() { return kMaxWidth; }
std::size_t max_k() { return kMaxK; }

int devices() {
    int count = 0;
    check(cudaGetDeviceCount(&count), "looking for a GPU");
    return count;
}

DeviceArray::DeviceArray(std::size_t bytes, int device, Stream stream, void* pool) : device_(device), stream_(stream) {
    const DeviceGuard on(device);
    check(cudaMallocFromPoolAsync(&data_, std::max<std::size_t>(bytes, 1), static_cast<cudaMemPool_t>(pool),
                                  static_cast<cudaStream_t>(stream)),
          "allocating GPU memory for results");
}

DeviceArray::~DeviceArray() { cudaFreeAsync(data_, static_cast<cudaStream_t>(stream_)); }

void DeviceArray::use_on(Stream stream) const {
    if (stream == stream_) return;
    const DeviceGuard on(device_);
    const Event event;
    check(cudaEventRecord(event.get(), static_cast<cudaStream_t>(stream_)), "recording an event after the results");
    check(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), event.get()), "waiting for results");
}

struct DeviceIndex::State {
    State(const Matrix& matrix, const Codes& codes, int on)
        : device(on),
          rows(matrix.rows),
          width(matrix.width),
          exponent(codes.exponent),
          multiprocessors(attribute(cudaDevAttrMultiProcessorCount, on)),
          shared_bytes(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, on)),
          pool(on),
          vectors(matrix.data, rows * width),
          bytes(codes.bytes, blocks(rows) * block_bytes(width)),
          scales(codes.scales, blocks(rows) * kBlock),
          code_norms(codes.code_norms, blocks(rows) * kBlock),
          mean(codes.mean, width) {
        for (std::size_t i = 0; i < error_norm_count(width); ++i) {
            errors.push_back(std::make_unique<DeviceBuffer<float>>(codes.errors[i], blocks(rows) * kBlock));
        }
        for (const Kernel kernel : large_kernels()) {
            const int dynamic_bytes = static_cast<int>(shared_bytes - kStaticSharedBytes);
            check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic_bytes),
                  "preparing the kernels (built for this GPU?)");
        }
        cudaFuncAttributes attributes{};
        check(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(finish)),
              "reading the attributes of the kernels");
        overlapping = attributes.ptxVersion >= 90 && attribute(cudaDevAttrComputeCapabilityMajor, on) >= 9;
    }

    std::size_t held() const {
        std::size_t sum = vectors.bytes() + bytes.bytes() + scales.bytes() + code_norms.bytes() + mean.bytes();
        for (const auto& norm : errors) sum += norm->bytes();
        return sum;
    }

    int device;
    std::size_t rows, width;
    int exponent;
    std::size_t multiprocessors, shared_bytes;
    bool overlapping;  // whether kernels are launched by programmatic dependent launch
    Pool pool;
    NonBlockingStream stream;  // of searches from host memory
    DeviceBuffer<float> vectors;
    DeviceBuffer<std::uint8_t> bytes;
    DeviceBuffer<float> scales, code_norms, mean;
    std::vector<std::unique_ptr<DeviceBuffer<float>>> errors;
};

DeviceIndex::DeviceIndex(const Matrix& vectors, const Codes& codes, int device) {
    if (vectors.width > kMaxWidth) throw std::invalid_argument("the vectors are wider than a search on a GPU supports");
    // Candidates have 32-bit ids.
    if (vectors.rows > std::numeric_limits<std::int32_t>::max()) {
        throw std::invalid_argument("more vectors than a search on one GPU supports; use several GPUs");
    }
    const DeviceGuard on(device);
    state_ = std::make_unique<State>(vectors, codes, device);
}

DeviceIndex::~DeviceIndex() = default;

int DeviceIndex::device() const { return state_->device; }
std::size_t DeviceIndex::rows() const { return state_->rows; }
std::size_t DeviceIndex::width() const { return state_->width; }
std::size_t DeviceIndex::bytes() const { return state_->held(); }

void DeviceIndex::search(const Request& request, Stream caller) const {
    const State& state = *state_;
    const DeviceGuard on(state.device);
    const cudaStream_t stream = static_cast<cudaStream_t>(caller);
    const std::size_t k = request.k, max_queries = std::min(request.count, kPassQueries);
    if (max_queries == 0 || k == 0) return;
    if (k > kMaxK || request.query_width > state.width) {
        throw std::invalid_argument("k or the width of the queries is too large");
    }

    const Plan plan = make_plan(state.rows, request.query_width, request.allowed_count, k, max_queries, state.shared_bytes,
                                request.max_columns);
    const std::size_t query_bytes = plan.column_groups * plan.group_bytes();
    // Two blocks per multiprocessor, and at least one per query.
    const std::size_t exhaustive = std::max(2 * state.multiprocessors, max_queries);
    // As many as run at once, in rows that multiply the same columns.
    const std::size_t filter_rows = plan.column_groups / plan.block_groups;
    const std::size_t filter_blocks =
        std::max<std::size_t>(1, blocks_at_once(plan.tiles) * state.multiprocessors / filter_rows);
    Layout layout;
    const std::size_t query_codes = layout.add<QueryCode>(max_queries),
                      packed_queries = layout.add<std::uint8_t>(query_bytes),
                      thresholds = layout.add<float>(max_queries), numbers = layout.add<unsigned>(1 + 3 * max_queries),
                      candidates = layout.add<Candidate>(plan.by_codes ? max_queries * plan.capacity : 0),
                      parts = layout.add<Hit>(exhaustive * k);
    const ScratchMemory memory(state.pool, layout, stream);

    Arguments a{};
    a.vectors = state.vectors.get();
    a.bytes = state.bytes.get();
    a.scales = state.scales.get();
    a.code_norms = state.code_norms.get();
    a.errors = state.errors[error_norm_of_prefix(request.query_width, state.width)]->get();
    a.mean = state.mean.get();
    a.exponent = state.exponent;
    a.rows = state.rows;
    a.width = state.width;
    a.stride = block_bytes(state.width);
    a.query_width = request.query_width;
    a.k = k;
    a.allowed = request.allowed;
    a.plan = plan;
    a.query_codes = memory.at<QueryCode>(query_codes);
    a.packed_queries = memory.at<std::uint8_t>(packed_queries);
    a.thresholds = memory.at<float>(thresholds);
    a.candidates = memory.at<Candidate>(candidates);
    a.failed_count = memory.at<unsigned>(numbers);
    a.candidate_counts = a.failed_count + 1;
    a.failed_queries = a.candidate_counts + max_queries;
    a.finished_parts = a.failed_queries + max_queries;
    a.exhaustive_blocks = static_cast<unsigned>(exhaustive);
    a.partial_hits = memory.at<Hit>(parts);
    const auto run = [&](Kernel kernel, dim3 grid, unsigned threads, std::size_t shared, bool overlapping) {
        check(launch(kernel, grid, threads, shared, stream, overlapping, a), "searching on the GPU");
    };
    const bool overlapping = state.overlapping;
    for (std::size_t start = 0; start < request.count; start += max_queries) {
        a.queries = request.queries + start * request.query_width;
        a.count = std::min(max_queries, request.count - start);
        a.scores = request.scores ? request.scores + start * k : nullptr;
        a.float_scores = request.float_scores ? request.float_scores + start * k : nullptr;
        a.ids = request.ids ? request.ids + start * k : nullptr;
        a.rescored = request.rescored ? request.rescored + start : nullptr;

        const dim3 by_query(static_cast<unsigned>(a.count));
        // Not overlapping: it writes to the memory of the pass before.
        run(encode_queries, by_query, kThreads, encode_shared_bytes(a.query_width), false);
        if (plan.by_codes) {
            const dim3 grid(static_cast<unsigned>(filter_blocks), static_cast<unsigned>(filter_rows));
            const std::size_t shared = filter_shared_bytes(plan);
            run(filter_of(plan, true), grid, kThreads, shared, overlapping);
            run(update_thresholds, by_query, kSelectThreads, top_k_bytes(k), overlapping);
            run(filter_of(plan, false), grid, kThreads, shared, overlapping);
            run(finish, by_query, kSelectThreads, top_k_bytes(k), overlapping);
        }
        run(score_all, dim3(a.exhaustive_blocks), kSelectThreads, top_k_bytes(k), overlapping);
    }
}

std::unique_ptr<DeviceArray> DeviceIndex::results(std::size_t bytes, Stream stream) const {
    return std::make_unique<DeviceArray>(bytes, state_->device, stream, state_->pool.get());
}

std::unique_ptr<DeviceArray> DeviceIndex::copy_allowed(const std::uint16_t* allowed, Stream stream) const {
    const DeviceGuard on(state_->device);
    const std::size_t size = blocks(state_->rows) * sizeof(std::uint16_t);
    auto copy = results(size, stream);
    check(cudaMemcpyAsync(copy->data(), allowed, size, cudaMemcpyHostToDevice, static_cast<cudaStream_t>(stream)),
          "copying the subset to the GPU");
    return copy;
}

void DeviceIndex::search_from_host(const Request& request) const {
    const State& state = *state_;
    const DeviceGuard on(state.device);
    const cudaStream_t stream = state.stream.get();
    const std::size_t hits = request.count * request.k, values = request.count * request.query_width;
    Layout layout;
    const std::size_t queries = layout.add<float>(values), scores = layout.add<double>(hits),
                      ids = layout.add<std::int64_t>(hits), rescored = layout.add<std::int64_t>(request.count);
    const ScratchMemory memory(state.pool, layout, stream);
    const auto allowed = request.allowed ? copy_allowed(request.allowed, stream) : nullptr;
    check(cudaMemcpyAsync(memory.at<float>(queries), request.queries, values * sizeof(float), cudaMemcpyHostToDevice, stream),
          "copying the queries to the GPU");
    Request on_gpu = request;
    on_gpu.queries = memory.at<float>(queries);
    on_gpu.allowed = allowed ? static_cast<const std::uint16_t*>(allowed->data()) : nullptr;
    on_gpu.scores = memory.at<double>(scores);
    on_gpu.float_scores = nullptr;
    on_gpu.ids = memory.at<std::int64_t>(ids);
    on_gpu.rescored = memory.at<std::int64_t>(rescored);
    search(on_gpu, stream);
    const auto fetch = [&](void* to, const void* from, std::size_t size) {
        check(cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToHost, stream), "copying the results from the GPU");
    };
    fetch(request.scores, memory.at<double>(scores), hits * sizeof(double));
    fetch(request.ids, memory.at<std::int64_t>(ids), hits * sizeof(std::int64_t));
    fetch(request.rescored, memory.at<std::int64_t>(rescored), request.count * sizeof(std::int64_t));
    check(cudaStreamSynchronize(stream), "searching on the GPU");
}

}  // namespace care::cuda
