// `savior inspect codebook`: the versions that the run has had, and what the codes in use are used
// for, told by the items that have them.

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

#include "common/tensor_file.h"
#include "launcher/inspected_commit.h"
#include "launcher/logs.h"
#include "launcher/refresh_history.h"
#include "worker/model/codebook.h"
#include "worker/tables.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

constexpr size_t kExamples = 3;      // items shown per code
constexpr size_t kTitleLength = 40;  // characters shown of a title

// What the content table says: its keys (each the id of the content's first item), ascending, and
// their codes.
struct ContentCodes {
  size_t levels = 0;
  std::vector<uint64_t> keys;    // [n]
  std::vector<int32_t> codes;    // [n, levels], of the version in use
  std::vector<int64_t> changed;  // [levels], contents that had another code in the version before
};

absl::StatusOr<ContentCodes> ReadCodes(InspectedCommit& inspected, const Codebook& codebook) {
  const CodebookState& state = inspected.commit().manifest.codebook;
  const auto levels = static_cast<size_t>(codebook.levels());
  const ContentLayout layout = {static_cast<size_t>(codebook.dim()), levels,
                                inspected.config().encoder.refreshable};
  const size_t from = layout.codes(state.version);
  const size_t before = state.probation ? layout.codes(state.previous) : from;
  if (inspected.commit().manifest.tables[kContentTable].dim < std::max(from, before) + levels) {
    return absl::DataLossError(fmt::format("{}: {} does not fit the content table",
                                           inspected.commit().folder.string(),
                                           CodebookFileOf(state)));
  }
  ContentCodes read;
  read.levels = levels;
  read.changed.resize(levels);
  const auto add = [&](const StoredRow& row) {
    read.keys.push_back(row.key);
    for (size_t l = 0; l < levels; ++l) {
      const float code = row.weights[from + l];
      if (!(code >= 0) || code >= static_cast<float>(codebook.codes())) {
        return absl::DataLossError(fmt::format("content {}: code {} of level {} is not in [0, {})",
                                               row.key, code, l + 1, codebook.codes()));
      }
      read.codes.push_back(static_cast<int32_t>(code));
      read.changed[l] += row.weights[before + l] != code;
    }
    return absl::OkStatus();
  };
  SAVIOR_RETURN_IF_ERROR(inspected.store().ForEachRow(kContentTable, add, InspectDeadline()));
  return read;
}

// Which codebook it is; on probation, what became of the codes of the one before.
void PrintVersion(const CodebookState& state, bool encoder, const ContentCodes& read,
                  std::ostream& out) {
  // After a rollback: since the step that it went back to.
  out << fmt::format("codebook version {}, in use {}since step {}", state.version,
                     state.by_hand_only ? "again " : "", state.since_step);
  if (encoder) out << fmt::format(", encoder version {}", state.encoder);
  if (state.previous > state.version) {
    out << fmt::format(", rolled back from version {}", state.previous);
  }
  out << "\n";
  if (!state.probation) return;
  out << fmt::format("on probation: version {} is kept; other codes than in it have",
                     state.previous);
  for (size_t l = 0; l < read.levels; ++l) {
    out << fmt::format(
        "{} {:.1f}% of the contents at level {}", l == 0 ? "" : ",",
        100.0 * static_cast<double>(read.changed[l]) / static_cast<double>(read.keys.size()),
        l + 1);
  }
  out << "\n";
}

// "0.8% 16.4%": `of` each level; "-": nobody knows.
std::string ByLevel(const RefreshOutcome& outcome,
                    const std::function<std::string(const RefreshLevel&)>& of) {
  std::string text;
  for (const RefreshLevel& level : outcome.levels) {
    if (!text.empty()) text += ' ';
    text += of(level);
  }
  return text.empty() ? "-" : text;
}

void PrintAttempt(const CodebookRefresh& refresh, int codes, std::ostream& out) {
  const RefreshOutcome& outcome = refresh.outcome;
  out << fmt::format(
      "{:>7} {:>10}  {:<17} {:<15} {:<15} {:<15} {:>12}  {}{}\n", refresh.version,
      refresh.switched ? fmt::format("{}", *refresh.switched) : "-", NameOf(refresh.fate),
      ByLevel(outcome, [](const auto& l) { return fmt::format("{:.1f}%", 100 * l.churn); }),
      ByLevel(
          outcome,
          [codes](const auto& l) { return fmt::format("{:.1f}%", 100 * Utilisation(l, codes)); }),
      ByLevel(outcome, [](const auto& l) { return fmt::format("{:.1f}", l.perplexity); }),
      outcome.preserved_r2 ? fmt::format("{:.3f}", *outcome.preserved_r2) : "-",
      refresh.why.empty() ? "not known" : refresh.why,
      refresh.why_not.empty() ? "" : "; " + refresh.why_not);
}

// All versions of the run that the commit `folder` lies in, as far as its refresh.jsonl tells.
absl::Status PrintVersions(const fs::path& folder, int codes, std::ostream& out) {
  const fs::path commits = fs::absolute(folder).lexically_normal().parent_path();
  // The history is the run's, whichever of its commits is looked at.
  const std::vector<fs::path> all = ListCommits(commits);
  absl::StatusOr<Commit> newest = absl::NotFoundError("");
  if (!all.empty()) newest = OpenCommit(all.back(), /*digests=*/false);
  SAVIOR_ASSIGN_OR_RETURN(
      const RefreshHistory history,
      ReadRefreshHistory(commits.parent_path(), newest.ok() ? &newest->manifest : nullptr));
  if (history.refreshes.empty()) return absl::OkStatus();
  out << fmt::format("\n{:>7} {:>10}  {:<17} {:<15} {:<15} {:<15} {:>12}  {}\n", "version",
                     "since step", "state", "churn", "utilisation", "perplexity", "preserved R2",
                     "why it began; why it ended");
  CodebookRefresh first;
  first.fate = history.first;
  first.switched = 0;
  first.why = "the run's first";
  PrintAttempt(first, codes, out);
  for (const CodebookRefresh& refresh : history.refreshes) PrintAttempt(refresh, codes, out);
  out << "churn, utilisation and perplexity by level\n";
  return absl::OkStatus();
}

// Names items for a person: by title where the training log is at hand, else by id.
class ItemNames {
 public:
  ItemNames(const Config& config, std::ostream& out) {
    absl::StatusOr<std::unique_ptr<TrainingLog>> log = OpenOrPrepare(config);
    if (log.ok()) {
      log_ = *std::move(log);
    } else {
      out << "no titles, item ids instead: the training log cannot be opened: "
          << std::string(log.status().message()) << "\n";
    }
  }

  std::string NameOf(uint64_t id) const {
    std::string_view title;
    if (log_) {
      const std::span<const int64_t> ids = log_->item_ids();
      const auto at = std::ranges::lower_bound(ids, static_cast<int64_t>(id));
      if (at != ids.end() && *at == static_cast<int64_t>(id)) title = log_->title(at - ids.begin());
    }
    if (title.empty()) return fmt::format("item {}", id);
    if (title.size() <= kTitleLength) return std::string(title);
    size_t end = kTitleLength;
    while (end > 0 && (static_cast<unsigned char>(title[end]) & 0xC0) == 0x80)
      --end;  // whole UTF-8
    return std::string(title.substr(0, end)) + "...";
  }

 private:
  std::unique_ptr<TrainingLog> log_;  // null: not at hand
};

void PrintLevel(const ContentCodes& read, size_t level, size_t codes, size_t top,
                const ItemNames& names, std::ostream& out) {
  std::vector<std::vector<uint64_t>> members(codes);  // content keys, ascending
  for (size_t i = 0; i < read.keys.size(); ++i) {
    members[static_cast<size_t>(read.codes[i * read.levels + level])].push_back(read.keys[i]);
  }
  std::vector<size_t> order(codes);
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::greater(), [&](size_t c) { return members[c].size(); });
  const CodebookFigures::Level figures =
      MeasureLevel(read.codes, level, read.levels, static_cast<int>(codes));
  out << fmt::format(
      "\nlevel {}: perplexity {:.1f} of {}, utilisation {:.1f}%, {} dead, largest share {:.1f}%\n",
      level + 1, figures.perplexity, codes,
      100.0 * (1.0 - static_cast<double>(figures.dead) / static_cast<double>(codes)), figures.dead,
      100 * figures.largest_share);
  for (size_t i = 0; i < std::min(top, codes); ++i) {
    const std::vector<uint64_t>& keys = members[order[i]];
    if (keys.empty()) break;
    std::string examples;
    for (size_t e = 0; e < std::min(kExamples, keys.size()); ++e) {
      // Spread over the code's contents: neighbours in id are often of one kind anyhow.
      const uint64_t key = keys[e * keys.size() / std::min(kExamples, keys.size())];
      examples += (e == 0 ? "" : " | ") + names.NameOf(key);
    }
    out << fmt::format(
        "  code {:>4} {:>7} contents {:>5.1f}%  {}\n", order[i], keys.size(),
        100.0 * static_cast<double>(keys.size()) / static_cast<double>(read.keys.size()), examples);
  }
}

}  // namespace

absl::Status InspectCodebook(const std::string& path, int64_t top, std::ostream& out) {
  SAVIOR_ASSIGN_OR_RETURN(const auto inspected, InspectedCommit::Open(path));
  const CodebookState& state = inspected->commit().manifest.codebook;
  const fs::path file = inspected->commit().folder / CodebookFileOf(state);
  if (!fs::exists(file)) {
    return absl::NotFoundError(fmt::format("{}: no codebook: model.arm = \"{}\" uses no codes",
                                           inspected->commit().folder.string(),
                                           inspected->config().model.arm));
  }
  SAVIOR_ASSIGN_OR_RETURN(const TensorFile tensors, ReadTensorFile(file));
  absl::StatusOr<std::unique_ptr<Codebook>> codebook = LoadCodebook(tensors);
  if (!codebook.ok()) return Annotate(codebook.status(), file.string());
  SAVIOR_ASSIGN_OR_RETURN(const ContentCodes read, ReadCodes(*inspected, **codebook));
  if (read.keys.empty()) {
    return absl::NotFoundError(fmt::format("{}: the content table is empty", path));
  }
  const ItemNames names(inspected->config(), out);
  out << fmt::format("{}\n{} contents, {} levels of {} codes\n",
                     inspected->commit().folder.string(), read.keys.size(), read.levels,
                     (*codebook)->codes());
  PrintVersion(state, inspected->config().encoder.refreshable, read, out);
  SAVIOR_RETURN_IF_ERROR(PrintVersions(inspected->commit().folder, (*codebook)->codes(), out));
  for (size_t level = 0; level < read.levels; ++level) {
    PrintLevel(read, level, static_cast<size_t>((*codebook)->codes()), static_cast<size_t>(top),
               names, out);
  }
  return absl::OkStatus();
}

}  // namespace savior
