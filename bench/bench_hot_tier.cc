// What does a row in RAM cost? Gathers weights and applies one step of rowwise Adagrad through a
// Table whose rows are all hot, beside
//   (a) raw arrays whose indices are known: as a plain loop, and with the next rows prefetched,
//   (b) std::unordered_map<uint64_t, std::vector<float>> of weights and state.
// All sides have the same rows, batches and optimizer, and take turns; (a) has the table's kind of
// memory (huge pages). A figure is the median of the rounds, in CPU nanoseconds per row.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <unordered_map>

#include "bench/harness.h"
#include "common/process.h"
#include "common/simd.h"
#include "ps/arena.h"
#include "ps/optimizer.h"
#include "ps/table.h"

namespace savior {
namespace {

constexpr size_t kAhead = 16;  // rows between prefetch and use
constexpr size_t kLine = 64;

struct Sizes {
  uint64_t rows = 10'000'000;
  uint32_t dim = 32;
  size_t batch = 4096;
  size_t batches = 64;
  double zipf = 1.05;
};

OptimizerSpec Rowwise() { return {.kind = OptimizerKind::kRowwiseAdagrad, .lr = 0.01f}; }

// Gradients are the same for all batches: what they are costs nothing.
struct Work {
  std::vector<std::vector<uint64_t>> keys;     // [batches, batch]
  std::vector<std::vector<uint32_t>> indices;  // the same rows in (a)
  std::vector<float> grads;                    // [batch, dim]
  std::vector<float> out;                      // [batch, dim]
};

class Side {
 public:
  virtual ~Side() = default;
  virtual void Gather(const Work& work, size_t batch, float* out) = 0;
  virtual void Update(const Work& work, size_t batch) = 0;
};

class TableSide : public Side {
 public:
  TableSide(const Sizes& sizes, const std::vector<uint64_t>& keys, const std::filesystem::path& db)
      : cold_(*ColdStore::Open(db, {"t"})) {
    const TableSpec spec{
        .name = "t", .dim = sizes.dim, .kind = TableKind::kAlign, .optimizer = Rowwise()};
    const uint64_t enough = sizes.rows * 1000 + (uint64_t{64} << 20);
    table_ = std::make_unique<Table>(spec, 0, 1, 0, cold_.get(), enough, enough);
    const std::vector<float> grads(sizes.batch * sizes.dim, 1e-3f);
    for (size_t begin = 0; begin < keys.size(); begin += sizes.batch) {
      const size_t n = std::min(sizes.batch, keys.size() - begin);
      CheckOk(table_->Push(0, {std::span(keys).subspan(begin, n), {}}, grads.data()));
    }
    while (table_->Maintain()) {
    }
  }
  void Gather(const Work& work, size_t batch, float* out) override {
    CheckOk(table_->Pull({work.keys[batch], {}}, out, nullptr));
  }
  void Update(const Work& work, size_t batch) override {
    CheckOk(table_->Push(1, {work.keys[batch], {}}, work.grads.data()));
  }

 private:
  const std::unique_ptr<ColdStore> cold_;
  std::unique_ptr<Table> table_;
};

class RawSide : public Side {
 public:
  RawSide(const Sizes& sizes, bool prefetch)
      : dim_(sizes.dim),
        prefetch_(prefetch),
        weights_(sizes.rows * sizes.dim * sizeof(float)),
        sums_(sizes.rows * sizeof(float)) {
    weights_.Grow(weights_.max_bytes());
    sums_.Grow(sums_.max_bytes());
    std::memset(weights_.data(), 0, weights_.bytes());
    std::memset(sums_.data(), 0, sums_.bytes());
  }
  void Gather(const Work& work, size_t batch, float* out) override {
    const std::vector<uint32_t>& indices = work.indices[batch];
    for (size_t i = 0; i < indices.size(); ++i) {
      if (prefetch_ && i + kAhead < indices.size()) Prefetch(indices[i + kAhead], false);
      // A constant size, as a specialised kernel would have.
      if (dim_ == 32) {
        std::memcpy(out + i * 32, Row(indices[i]), 32 * sizeof(float));
      } else {
        std::memcpy(out + i * dim_, Row(indices[i]), dim_ * sizeof(float));
      }
    }
  }
  void Update(const Work& work, size_t batch) override {
    const std::vector<uint32_t>& indices = work.indices[batch];
    const OptimizerSpec spec = Rowwise();
    auto* const sums = reinterpret_cast<float*>(sums_.data());
    for (size_t i = 0; i < indices.size(); ++i) {
      if (prefetch_ && i + kAhead < indices.size()) Prefetch(indices[i + kAhead], true);
      ApplyGradient(spec, dim_, 1, &work.grads[i * dim_], Row(indices[i]), &sums[indices[i]]);
    }
  }

 private:
  float* Row(uint64_t index) { return reinterpret_cast<float*>(weights_.data()) + index * dim_; }
  // Inlined by force: GCC drops a call of a function that only prefetches, as without effect.
  SAVIOR_INLINE void Prefetch(uint64_t index, bool state) {
    const auto* const row = reinterpret_cast<const char*>(Row(index));
    for (size_t at = 0; at < dim_ * sizeof(float); at += kLine) __builtin_prefetch(row + at);
    if (state) __builtin_prefetch(sums_.data() + index * sizeof(float));
  }
  const size_t dim_;
  const bool prefetch_;
  Arena weights_;
  Arena sums_;
};

class MapSide : public Side {
 public:
  MapSide(const Sizes& sizes, const std::vector<uint64_t>& keys) : dim_(sizes.dim) {
    rows_.reserve(keys.size());
    for (const uint64_t key : keys) rows_.emplace(key, std::vector<float>(dim_ + 1));
  }
  void Gather(const Work& work, size_t batch, float* out) override {
    for (const uint64_t key : work.keys[batch]) {
      const std::vector<float>& row = rows_.find(key)->second;
      out = std::copy_n(row.begin(), dim_, out);
    }
  }
  void Update(const Work& work, size_t batch) override {
    const OptimizerSpec spec = Rowwise();
    const float* grad = work.grads.data();
    for (const uint64_t key : work.keys[batch]) {
      std::vector<float>& row = rows_.find(key)->second;
      ApplyGradient(spec, static_cast<uint32_t>(dim_), 1, grad, row.data(), &row[dim_]);
      grad += dim_;
    }
  }

 private:
  const size_t dim_;
  std::unordered_map<uint64_t, std::vector<float>> rows_;
};

Work DrawWork(const Sizes& sizes, const std::vector<uint64_t>& keys) {
  Work work;
  Zipf zipf(sizes.rows, sizes.zipf, 1);
  std::unordered_map<uint64_t, uint32_t> index;
  index.reserve(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) index.emplace(keys[i], static_cast<uint32_t>(i));
  for (size_t b = 0; b < sizes.batches; ++b) {
    work.keys.push_back(DrawUniqueKeys(&zipf, sizes.batch));
    std::vector<uint32_t> indices;
    for (const uint64_t key : work.keys.back()) indices.push_back(index.at(key));
    work.indices.push_back(std::move(indices));
  }
  work.grads.assign(sizes.batch * sizes.dim, 1e-3f);
  work.out.resize(sizes.batch * sizes.dim);
  return work;
}

// All keys, in an order that has nothing to do with how often they are drawn.
std::vector<uint64_t> AllKeys(uint64_t rows) {
  std::vector<uint64_t> keys(rows);
  for (uint64_t i = 0; i < rows; ++i) keys[i] = Mix(i + 1);  // as DrawUniqueKeys
  Random random(7);
  for (size_t i = keys.size(); i > 1; --i) std::swap(keys[i - 1], keys[random.Below(i)]);
  return keys;
}

struct Costs {
  std::vector<double> gather;
  std::vector<double> update;
};

// CPU nanoseconds per row of all batches, after a round that is not counted: each side in its
// steady state, with its own popular rows in the caches.
double Measure(const Sizes& sizes, const std::function<void(size_t)>& run) {
  for (size_t b = 0; b < sizes.batches; ++b) run(b);
  const double start = CpuSecondsOf();
  for (size_t b = 0; b < sizes.batches; ++b) run(b);
  return (CpuSecondsOf() - start) * 1e9 / static_cast<double>(sizes.batches * sizes.batch);
}

int Run(const Sizes& sizes, const BenchFlags& flags) {
  BenchReport report(
      "bench_hot_tier",
      fmt::format(
          "{} rows of dim {}, {} batches of {} unique keys, Zipf {}; one thread; sides take "
          "turns; medians of CPU ns per row",
          sizes.rows, sizes.dim, sizes.batches, sizes.batch, sizes.zipf),
      flags);
  const auto db =
      std::filesystem::temp_directory_path() / fmt::format("bench-hot-tier-{}", getpid());
  const std::vector<uint64_t> keys = AllKeys(sizes.rows);
  Work work = DrawWork(sizes, keys);

  std::map<std::string, std::unique_ptr<Side>> sides;
  const uint64_t before = RssBytes();
  sides["table"] = std::make_unique<TableSide>(sizes, keys, db);
  const double per_row = static_cast<double>(RssBytes() - before) / static_cast<double>(sizes.rows);
  sides["raw"] = std::make_unique<RawSide>(sizes, false);
  sides["raw, prefetched"] = std::make_unique<RawSide>(sizes, true);
  sides["unordered_map"] = std::make_unique<MapSide>(sizes, keys);

  std::map<std::string, Costs> costs;
  const double end = NowSeconds() + flags.seconds * 40;
  for (int round = 0; round < 3 || (!flags.smoke && NowSeconds() < end); ++round) {
    for (auto& [name, side] : sides) {
      costs[name].gather.push_back(
          Measure(sizes, [&](size_t b) { side->Gather(work, b, work.out.data()); }));
      costs[name].update.push_back(Measure(sizes, [&](size_t b) { side->Update(work, b); }));
    }
  }
  const double gather = Median(costs["table"].gather);
  const double update = Median(costs["table"].update);
  std::cout << fmt::format("\n{:<18}{:>10}{:>14}{:>10}{:>14}\n", "side", "gather ns",
                           "table is x of", "update ns", "table is x of");
  for (const auto& [name, cost] : costs) {
    const double g = Median(cost.gather);
    const double u = Median(cost.update);
    std::cout << fmt::format("{:<18}{:>10.1f}{:>14.2f}{:>10.1f}{:>14.2f}\n", name, g, g / gather, u,
                             u / update);
    report.Add({{"side", name},
                {"rows", sizes.rows},
                {"dim", sizes.dim},
                {"gather_ns", g},
                {"update_ns", u},
                {"table_speed_of_gather", g / gather},
                {"table_speed_of_update", u / update}});
  }
  const double payload = (sizes.dim + 1) * sizeof(float);
  std::cout << fmt::format(
      "\nRSS per row {:.1f} B = weights and state {:.0f} + counters 8 + overhead "
      "{:.1f} (goal <= 24)\n",
      per_row, payload, per_row - payload - 8);
  report.Add({{"rss_per_row", per_row}, {"overhead_per_row", per_row - payload - 8}});
  sides.clear();
  std::filesystem::remove_all(db);
  return report.Finish();
}

}  // namespace
}  // namespace savior

int main(int argc, char** argv) {
  savior::Sizes sizes;
  savior::BenchFlags flags;
  CLI::App app("What does a row in RAM cost, beside raw arrays and std::unordered_map?");
  flags.AddTo(&app);
  app.add_option("--rows", sizes.rows)->capture_default_str();
  app.add_option("--dim", sizes.dim)->capture_default_str();
  app.add_option("--batch", sizes.batch)->capture_default_str();
  app.add_option("--batches", sizes.batches)->capture_default_str();
  app.add_option("--zipf", sizes.zipf)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (flags.smoke) {
    sizes.rows = 20'000;
    sizes.batch = 256;
    sizes.batches = 4;
  }
  return savior::Run(sizes, flags);
}
