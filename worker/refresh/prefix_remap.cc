#include "worker/refresh/prefix_remap.h"

#include <absl/strings/str_cat.h>
#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>

#include "common/random.h"
#include "worker/tables.h"
#include "worker/unique_keys.h"

namespace savior {
namespace {

constexpr std::chrono::hours kPatience{24};
constexpr uint64_t kOwners = HashName("prefix owners");
constexpr size_t kContentsPerSpend = 4096;
// Rows that a call of the store reads, unless one row alone is made of more.
constexpr size_t kRowsPerCall = 4096;

struct Move {
  uint64_t now = 0, before = 0;  // keys of build 0
  double weight = 0;
};

struct SharedMove {
  uint64_t now = 0, before = 0;
  double weight = 0;
  double from = 0, until = 0;  // of the updates of `before`
};

// Sends each of `mine` to the owner of its key. Returns what has come, by rank.
template <typename T>
absl::StatusOr<std::vector<T>> Shuffle(const std::vector<T>& mine, uint64_t T::*key, Group* group) {
  std::vector<std::string> gifts(group->size());
  for (const T& one : mine) {
    gifts[MixTwo(kOwners, one.*key) % group->size()].append(reinterpret_cast<const char*>(&one),
                                                            sizeof one);
  }
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> got,
                          group->Alltoall(std::move(gifts), DeadlineIn(kPatience)));
  std::vector<T> all;
  for (size_t r = 0; r < got.size(); ++r) {
    if (got[r].size() % sizeof(T) != 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("worker ", r, " does something else than remapping prefixes"));
    }
    const size_t begin = all.size();
    all.resize(begin + got[r].size() / sizeof(T));
    if (!got[r].empty()) std::memcpy(&all[begin], got[r].data(), got[r].size());
  }
  return all;
}

// One for each pair, weights added up in their order; by (before, now).
std::vector<Move> Merged(std::vector<Move> moves) {
  const auto pair = [](const Move& m) { return std::tuple(m.before, m.now); };
  std::ranges::stable_sort(moves, {}, pair);
  std::vector<Move> merged;
  for (const Move& move : moves) {
    if (merged.empty() || pair(merged.back()) != pair(move)) {
      merged.push_back(move);
    } else {
      merged.back().weight += move.weight;
    }
  }
  return merged;
}

absl::StatusOr<std::vector<Move>> MovesOf(const CodeMoves& contents, RemapKind kind,
                                          WorkBudget* budget) {
  std::vector<Move> moves;
  const size_t levels = contents.levels;
  std::vector<uint64_t> before;
  for (size_t i = 0; i < contents.weights.size() && kind != RemapKind::kZero; ++i) {
    if (i % kContentsPerSpend == 0) SAVIOR_RETURN_IF_ERROR(budget->Spend());
    if (contents.weights[i] <= 0.0) continue;
    const auto now = contents.now.subspan(i * levels, levels);
    // By index, a row stays what it is.
    const auto was = kind == RemapKind::kIndex ? now : contents.before.subspan(i * levels, levels);
    before.clear();
    ForEachPrefix(0, was, contents.num_codes, [&](uint64_t key) { before.push_back(key); });
    auto of = before.begin();
    ForEachPrefix(0, now, contents.num_codes, [&](uint64_t key) {
      moves.push_back({key, *of++, contents.weights[i]});
    });
  }
  return Merged(std::move(moves));
}

// Shares out the updates of every `before` among the prefixes that its contents have now. `moves`:
// all there are of each, merged.
std::vector<SharedMove> WithUpdateShares(const std::vector<Move>& moves) {
  std::vector<SharedMove> shared;
  for (size_t begin = 0, end = 0; begin < moves.size(); begin = end) {
    double all = 0.0;
    for (end = begin; end < moves.size() && moves[end].before == moves[begin].before; ++end) {
      all += moves[end].weight;
    }
    double sum = 0.0, from = 0.0;
    for (size_t i = begin; i < end; ++i) {
      sum += moves[i].weight;
      const double until = i + 1 == end ? 1.0 : sum / all;
      shared.push_back({moves[i].now, moves[i].before, moves[i].weight, from, until});
      from = until;
    }
  }
  return shared;
}

using RowParts = std::span<const PrefixPart>;

// Makes some rows at a time.
class RowMaker {
 public:
  RowMaker(EmbeddingStore* store, const PrefixRemap::Place& place,
           std::chrono::milliseconds timeout)
      : store_(*store),
        place_(place),
        timeout_(timeout),
        spec_(store->tables()[place.table]),
        width_(RowFloats(spec_)),
        sum_(width_) {}

  // Returns how many of them are not missing.
  absl::StatusOr<size_t> Make(std::span<const RowParts> rows) {
    from_keys_.clear();
    to_keys_.clear();
    to_.clear();
    to_updates_.clear();
    UniqueKeys unique(&from_keys_);
    std::vector<size_t> places;
    const uint64_t build = PrefixKey(place_.build_before, 1, 0);
    for (const RowParts row : rows) {
      for (const PrefixPart& part : row) {
        places.push_back(static_cast<size_t>(unique.Number(build | part.before)));
      }
    }
    from_.resize(from_keys_.size() * width_);
    from_updates_.resize(from_keys_.size());
    const TableRead read = {place_.table, from_keys_, from_, from_updates_};
    SAVIOR_RETURN_IF_ERROR(store_.ReadRows({&read, 1}, DeadlineIn(timeout_)));
    std::span<const size_t> rest = places;
    for (const RowParts row : rows) {
      MakeOne(row, rest.first(row.size()));
      rest = rest.subspan(row.size());
    }
    if (to_keys_.empty()) return 0;
    const TableWrite write = {place_.table, to_keys_, to_, to_updates_};
    SAVIOR_RETURN_IF_ERROR(store_.WriteRows(place_.step, {&write, 1}, DeadlineIn(timeout_)));
    return to_keys_.size();
  }

 private:
  // places: of the parts' rows in what was read.
  void MakeOne(RowParts row, std::span<const size_t> places) {
    std::ranges::fill(sum_, 0.0);
    uint32_t updates = 0;
    bool exists = false;
    for (size_t p = 0; p < row.size(); ++p) {
      const double n = from_updates_[places[p]];
      exists = exists || n > 0;
      updates += static_cast<uint32_t>(std::floor(row[p].until * n) - std::floor(row[p].from * n));
      const float* const from = &from_[places[p] * width_];
      for (size_t d = 0; d < width_; ++d) sum_[d] += row[p].share * from[d];
    }
    if (!exists) return;
    if (spec_.optimizer.kind == OptimizerKind::kAdam) {
      std::fill_n(sum_.begin() + spec_.dim, spec_.dim, 0.0);
    }
    to_keys_.push_back(PrefixKey(place_.build_now, 1, 0) | row[0].now);
    for (const double value : sum_) to_.push_back(static_cast<float>(value));
    // A row that exists has been updated once at least.
    to_updates_.push_back(std::max(updates, 1u));
  }

  EmbeddingStore& store_;
  const PrefixRemap::Place place_;
  const std::chrono::milliseconds timeout_;
  const TableSpec& spec_;
  const size_t width_;
  std::vector<double> sum_;
  std::vector<uint64_t> from_keys_, to_keys_;
  std::vector<float> from_, to_;
  std::vector<uint32_t> from_updates_, to_updates_;
};

}  // namespace

absl::StatusOr<PrefixRemap> PrefixRemap::Share(const CodeMoves& mine, RemapKind kind, double lambda,
                                               Group* group, WorkBudget* budget) {
  CHECK(kind != RemapKind::kHungarian);
  CHECK_EQ(mine.now.size(), mine.weights.size() * mine.levels);
  CHECK_EQ(mine.before.size(), mine.now.size());
  SAVIOR_ASSIGN_OR_RETURN(std::vector<Move> moves, MovesOf(mine, kind, budget));
  SAVIOR_ASSIGN_OR_RETURN(moves, Shuffle(moves, &Move::before, group));
  SAVIOR_ASSIGN_OR_RETURN(
      std::vector<SharedMove> shared,
      Shuffle(WithUpdateShares(Merged(std::move(moves))), &SharedMove::now, group));
  std::ranges::sort(shared, {}, [](const SharedMove& m) { return std::tuple(m.now, m.before); });
  PrefixRemap remap;
  remap.parts_.reserve(shared.size());
  for (size_t begin = 0, end = 0; begin < shared.size(); begin = end) {
    double all = kind == RemapKind::kIndex ? 0.0 : lambda;
    for (end = begin; end < shared.size() && shared[end].now == shared[begin].now; ++end) {
      all += shared[end].weight;
    }
    for (size_t i = begin; i < end; ++i) {
      const SharedMove& m = shared[i];
      remap.rows_of_.emplace_back(m.before, remap.rows_.size() - 1);
      remap.parts_.push_back({m.now, m.before, m.weight / all, m.from, m.until});
    }
    remap.rows_.push_back(end);
  }
  std::ranges::sort(remap.rows_of_);
  SAVIOR_RETURN_IF_ERROR(budget->Spend());
  return remap;
}

absl::StatusOr<size_t> PrefixRemap::Make(EmbeddingStore& store, const Place& place,
                                         std::optional<std::span<const uint64_t>> changed,
                                         std::chrono::milliseconds timeout,
                                         const std::function<absl::Status()>& breathe) const {
  std::vector<size_t> wanted;
  if (!changed) {
    wanted.resize(rows_.size() - 1);
    std::iota(wanted.begin(), wanted.end(), size_t{0});
  } else {
    for (const uint64_t key : *changed) {
      CHECK(IsOfBuild(key, place.build_before));
      const uint64_t before = WithoutBuild(key);
      for (auto of = std::ranges::lower_bound(rows_of_, std::pair(before, size_t{0}));
           of != rows_of_.end() && of->first == before; ++of) {
        wanted.push_back(of->second);
      }
    }
    std::ranges::sort(wanted);
    wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
  }
  RowMaker maker(&store, place, timeout);
  size_t made = 0, parts = 0;
  std::vector<RowParts> rows;  // to make next, of so many parts
  for (size_t w = 0; w < wanted.size(); ++w) {
    rows.push_back(row(wanted[w]));
    parts += rows.back().size();
    if (w + 1 < wanted.size() && parts + row(wanted[w + 1]).size() <= kRowsPerCall) continue;
    SAVIOR_ASSIGN_OR_RETURN(const size_t some, maker.Make(rows));
    made += some;
    rows.clear();
    parts = 0;
    SAVIOR_RETURN_IF_ERROR(breathe());
  }
  return made;
}

absl::StatusOr<std::vector<float>> PrefixRowsOf(std::span<const int32_t> codes, size_t levels,
                                                uint64_t num_codes, uint32_t table, uint32_t build,
                                                EmbeddingStore& store, Deadline deadline) {
  const size_t dim = store.tables()[table].dim;
  std::vector<uint64_t> keys;
  UniqueKeys unique(&keys);
  std::vector<int64_t> places;
  for (size_t begin = 0; begin < codes.size(); begin += levels) {
    ForEachPrefix(build, codes.subspan(begin, levels), num_codes,
                  [&](uint64_t key) { places.push_back(unique.Number(key)); });
  }
  std::vector<float> rows(keys.size() * dim), result;
  const TablePull pull = {table, keys, rows};
  if (!keys.empty()) SAVIOR_RETURN_IF_ERROR(store.Pull({&pull, 1}, deadline));
  result.reserve(places.size() * dim);
  for (const int64_t place : places) {
    const auto row = rows.begin() + place * static_cast<int64_t>(dim);
    result.insert(result.end(), row, row + static_cast<std::ptrdiff_t>(dim));
  }
  return result;
}

}  // namespace savior
