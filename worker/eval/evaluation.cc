#include "worker/eval/evaluation.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <ostream>

#include "worker/eval/metrics.h"

namespace savior {
namespace {

// One task's arrays, [n], or those of a bucket's rows.
struct Rows {
  std::vector<float> predictions;
  std::vector<float> labels;
  std::vector<int32_t> users;
};

Rows Select(const Rows& rows, std::span<const uint8_t> members) {
  Rows selected;
  for (size_t i = 0; i < members.size(); ++i) {
    if (members[i] == 0) continue;
    selected.predictions.push_back(rows.predictions[i]);
    selected.labels.push_back(rows.labels[i]);
    selected.users.push_back(rows.users[i]);
  }
  return selected;
}

Cell Measure(const Rows& rows) {
  Cell cell;
  const GroupedAuc grouped = GroupAuc(rows.predictions, rows.labels, rows.users);
  cell.auc = Auc(rows.predictions, rows.labels);
  cell.gauc = grouped.auc;
  cell.gauc_coverage = grouped.coverage;
  cell.logloss = LogLoss(rows.predictions, rows.labels);
  cell.ne = NormalizedEntropy(rows.predictions, rows.labels);
  cell.pcoc = Pcoc(rows.predictions, rows.labels);
  cell.ece = CalibrationError(rows.predictions, rows.labels);
  cell.n = static_cast<int64_t>(rows.labels.size());
  cell.positives = std::count(rows.labels.begin(), rows.labels.end(), 1.0f);
  cell.flagged = cell.positives < kFewPositives;
  return cell;
}

BucketCells MeasureBuckets(const Rows& rows, std::span<const Bucket> buckets,
                           std::span<const std::vector<uint8_t>> members) {
  BucketCells cells;
  for (size_t b = 0; b < buckets.size(); ++b) {
    cells.emplace_back(buckets[b].name(), Measure(Select(rows, members[b])));
  }
  return cells;
}

absl::Status CheckProbabilities(const char* name, std::span<const float> probabilities) {
  for (size_t i = 0; i < probabilities.size(); ++i) {
    const float p = probabilities[i];
    if (p >= 0.0f && p <= 1.0f) continue;  // false for NaN
    return absl::InvalidArgumentError(fmt::format(
        "{} of row {} is {}, not a probability: has the training diverged?", name, i, p));
  }
  return absl::OkStatus();
}

nlohmann::ordered_json Nullable(const std::optional<double>& value) {
  if (!value) return nullptr;
  return *value;
}

nlohmann::ordered_json CellsToJson(const BucketCells& cells) {
  auto json = nlohmann::ordered_json::object();
  for (const auto& [name, cell] : cells) {
    nlohmann::ordered_json& entry = json[name];
    entry["auc"] = Nullable(cell.auc);
    entry["gauc"] = Nullable(cell.gauc);
    entry["gauc_coverage"] = cell.gauc_coverage;
    entry["logloss"] = Nullable(cell.logloss);
    entry["ne"] = Nullable(cell.ne);
    entry["pcoc"] = Nullable(cell.pcoc);
    entry["ece"] = Nullable(cell.ece);
    entry["n"] = cell.n;
    entry["positives"] = cell.positives;
    entry["flagged"] = cell.flagged;
  }
  return json;
}

constexpr std::array<const char*, 6> kColumns = {"AUC",  "GAUC", "logloss",
                                                 "PCOC", "n",    "positives"};
using Columns = std::array<std::string, kColumns.size()>;

Columns CellText(const Cell& cell) {
  const auto number = [](const std::optional<double>& value, double scale, int digits) {
    return value ? fmt::format("{:.{}f}", *value * scale, digits) : std::string("-");
  };
  return {number(cell.auc, 100, 2) + (cell.flagged ? "*" : " "),
          number(cell.gauc, 100, 2),
          number(cell.logloss, 1, 4),
          number(cell.pcoc, 1, 3),
          fmt::format("{}", cell.n),
          fmt::format("{}", cell.positives)};
}

// The columns of one task: heading, and the lines under it, all of one width.
std::vector<std::string> TaskBlock(const std::string& heading, const BucketCells& cells) {
  std::vector<Columns> lines;
  Columns& header = lines.emplace_back();
  for (size_t c = 0; c < header.size(); ++c) header[c] = kColumns[c];
  header[0] += " ";  // over the place of the flag
  for (const auto& [name, cell] : cells) lines.push_back(CellText(cell));
  std::vector<std::string> block(lines.size());
  for (size_t c = 0; c < header.size(); ++c) {
    size_t width = 0;
    for (const Columns& line : lines) width = std::max(width, line[c].size());
    for (size_t i = 0; i < lines.size(); ++i)
      block[i] += fmt::format("  {:>{}}", lines[i][c], width);
  }
  block.insert(block.begin(), fmt::format("  {:-^{}}", " " + heading + " ", block[0].size() - 2));
  return block;
}

std::vector<std::string> NameBlock(const BucketCells& cells) {
  size_t width = std::string_view("bucket").size();
  for (const auto& [name, cell] : cells) width = std::max(width, name.size());
  std::vector<std::string> block = {std::string(width, ' '),
                                    fmt::format("{:<{}}", "bucket", width)};
  for (const auto& [name, cell] : cells) block.push_back(fmt::format("{:<{}}", name, width));
  return block;
}

bool AnyFlagged(const BucketCells& cells) {
  return std::any_of(cells.begin(), cells.end(), [](const auto& c) { return c.second.flagged; });
}

}  // namespace

absl::StatusOr<EvalResult> Evaluate(const TrainingLog& log, const Predictions& predictions,
                                    std::span<const Bucket> buckets, const ItemFacts& facts) {
  const size_t n = predictions.items.size();
  CHECK_EQ(predictions.users.size(), n);
  CHECK_EQ(predictions.clicks.size(), n);
  CHECK_EQ(predictions.p_ctr.size(), n);
  SAVIOR_RETURN_IF_ERROR(CheckProbabilities("p_ctr", predictions.p_ctr));
  const std::vector<std::vector<uint8_t>> members = BucketRows(log, predictions, buckets, facts);

  EvalResult result;
  Rows rows{predictions.p_ctr, predictions.clicks, predictions.users};
  result.ctr = MeasureBuckets(rows, buckets, members);
  if (!log.schema().has_conversion) return result;

  CHECK_EQ(predictions.conversions.size(), n);
  CHECK_EQ(predictions.p_ctcvr.size(), n);
  SAVIOR_RETURN_IF_ERROR(CheckProbabilities("p_ctcvr", predictions.p_ctcvr));
  rows.predictions = predictions.p_ctcvr;
  for (size_t i = 0; i < n; ++i) rows.labels[i] *= predictions.conversions[i];
  result.ctcvr = MeasureBuckets(rows, buckets, members);
  return result;
}

nlohmann::ordered_json ToJson(const EvalResult& result) {
  auto json = nlohmann::ordered_json::object();
  json["ctr"] = CellsToJson(result.ctr);
  if (!result.ctcvr.empty()) json["ctcvr"] = CellsToJson(result.ctcvr);
  return json;
}

void PrintTable(const EvalResult& result, std::ostream& out) {
  std::vector<std::string> lines = NameBlock(result.ctr);
  const auto beside = [&](const std::vector<std::string>& block) {
    for (size_t i = 0; i < lines.size(); ++i) lines[i] += block[i];
  };
  beside(TaskBlock("CTR", result.ctr));
  if (!result.ctcvr.empty()) beside(TaskBlock("CTCVR", result.ctcvr));
  for (const std::string& line : lines) out << line << '\n';
  out << "AUC and GAUC in points (x 100); - not defined by these rows\n";
  if (AnyFlagged(result.ctr) || AnyFlagged(result.ctcvr)) {
    out << "* fewer than " << kFewPositives << " positives: mostly noise\n";
  }
}

}  // namespace savior
