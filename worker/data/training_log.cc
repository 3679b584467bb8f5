#include "worker/data/training_log.h"

#include <arrow/array.h>
#include <arrow/type.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "worker/data/arrow_files.h"
#include "worker/data/log_manifest.h"
#include "worker/data/timelines.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

// Whether all of `values` are in [low, high): what makes indices from disk safe to follow.
template <typename T>
bool AllIn(std::span<const T> values, int64_t low, int64_t high) {
  return std::all_of(values.begin(), values.end(), [low, high](T value) {
    return static_cast<int64_t>(value) >= low && static_cast<int64_t>(value) < high;
  });
}

// A missing or cut file is found before anything is mapped: reading past the end of a map would
// kill the process.
absl::Status CheckFiles(const fs::path& folder, const LogManifest& manifest) {
  for (const auto& [name, entry] : manifest.files) {
    std::error_code error;
    const auto bytes = fs::file_size(folder / name, error);
    const std::string path = (folder / name).string();
    if (error) return absl::DataLossError(path + ": " + error.message());
    if (bytes != static_cast<uint64_t>(entry.bytes)) {
      return absl::DataLossError(path + ": has " + std::to_string(bytes) +
                                 " bytes, was written with " + std::to_string(entry.bytes));
    }
  }
  return absl::OkStatus();
}

// What a DayLog points into.
struct DayMapping {
  std::shared_ptr<arrow::RecordBatch> requests;
  std::shared_ptr<arrow::RecordBatch> rows;
  std::vector<int64_t> row_begin;
};

class MappedLog final : public TrainingLog {
 public:
  static absl::StatusOr<std::unique_ptr<TrainingLog>> Open(const fs::path& folder) {
    std::unique_ptr<MappedLog> log(new MappedLog(folder));
    SAVIOR_ASSIGN_OR_RETURN(log->manifest_, ReadLogManifest(folder));
    SAVIOR_RETURN_IF_ERROR(CheckFiles(folder, log->manifest_));
    SAVIOR_RETURN_IF_ERROR(log->OpenItems());
    for (const Modality& modality : log->schema().modalities) {
      SAVIOR_RETURN_IF_ERROR(log->OpenVectors(modality));
    }
    SAVIOR_ASSIGN_OR_RETURN(log->timelines_,
                            Timelines::Open(folder, log->manifest_.timeline_first_users));
    if (log->timelines_->users() != log->manifest_.users ||
        log->timelines_->behaviours() != log->manifest_.behaviours) {
      return absl::DataLossError((folder / "users.arrow").string() +
                                 ": has not the counts of the manifest");
    }
    return log;
  }

  const LogSchema& schema() const override { return manifest_.schema; }
  const std::string& fingerprint() const override { return manifest_.fingerprint; }
  int64_t num_items() const override { return manifest_.items; }
  int64_t num_users() const override { return manifest_.users; }
  int64_t num_contents() const override { return manifest_.contents; }
  std::span<const int64_t> item_ids() const override { return item_ids_; }
  std::span<const int64_t> listed_at() const override { return listed_at_; }
  std::span<const int32_t> item_contents() const override { return contents_; }
  std::span<const int32_t> item_feature(size_t feature) const override {
    return features_[feature];
  }
  std::span<const float> item_numeric(size_t feature) const override { return numerics_[feature]; }
  std::string_view title(int64_t item) const override {
    return titles_ == nullptr ? std::string_view() : titles_->GetView(item);
  }
  std::span<const int64_t> user_ids() const override { return timelines_->user_ids(); }
  std::span<const uint16_t> vectors(size_t modality) const override { return vectors_[modality]; }
  Timeline timeline(int64_t user) const override { return timelines_->Of(user); }
  const std::vector<DayInfo>& days() const override { return manifest_.days; }
  absl::StatusOr<DayLog> ReadDay(size_t day) const override;

 private:
  explicit MappedLog(fs::path folder) : folder_(std::move(folder)) {}

  absl::Status OpenItems();
  absl::Status OpenVectors(const Modality& modality);
  absl::Status ReadRequests(const MappedColumns& file, const DayInfo& info, DayLog* log,
                            std::vector<int64_t>* row_begin) const;
  absl::Status ReadRows(const MappedColumns& file, const DayInfo& info, DayLog* log) const;

  // All constant after Open.
  const fs::path folder_;
  LogManifest manifest_;
  std::vector<std::shared_ptr<arrow::RecordBatch>> mappings_;  // items and vectors
  std::span<const int64_t> item_ids_;
  std::span<const int64_t> listed_at_;
  std::span<const int32_t> contents_;
  std::vector<std::span<const int32_t>> features_;
  std::vector<std::span<const float>> numerics_;
  std::vector<std::span<const uint16_t>> vectors_;
  std::shared_ptr<const arrow::LargeStringArray> titles_;
  std::unique_ptr<Timelines> timelines_;
};

absl::Status MappedLog::OpenItems() {
  const fs::path path = folder_ / "items.arrow";
  SAVIOR_ASSIGN_OR_RETURN(const auto file, MappedColumns::Open(path));
  if (file.rows() != manifest_.items) return file.Damaged("has not the manifest's rows");
  SAVIOR_RETURN_IF_ERROR(file.Read("item_id", &item_ids_));
  SAVIOR_RETURN_IF_ERROR(file.Read("listed_at", &listed_at_));
  SAVIOR_RETURN_IF_ERROR(file.Read("content", &contents_));
  if (!AllIn(contents_, -1, manifest_.contents)) return file.Damaged("a content is out of range");
  for (const CategoricalFeature& feature : schema().item_features) {
    features_.emplace_back();
    SAVIOR_RETURN_IF_ERROR(file.Read(feature.name, &features_.back()));
    if (!AllIn(features_.back(), 0, static_cast<int64_t>(feature.vocabulary.size()))) {
      return file.Damaged("a code of '" + feature.name + "' is out of range");
    }
  }
  for (const std::string& name : schema().item_numerics) {
    numerics_.emplace_back();
    SAVIOR_RETURN_IF_ERROR(file.Read(name, &numerics_.back()));
  }
  if (file.batch()->GetColumnByName("title") != nullptr) {
    SAVIOR_ASSIGN_OR_RETURN(const auto titles, file.Column("title", *arrow::large_utf8()));
    // Offsets, too, are indices from disk.
    SAVIOR_RETURN_IF_ERROR(FromArrow(titles->ValidateFull(), path));
    titles_ = std::static_pointer_cast<const arrow::LargeStringArray>(titles);
  }
  mappings_.push_back(file.batch());
  return absl::OkStatus();
}

absl::Status MappedLog::OpenVectors(const Modality& modality) {
  SAVIOR_ASSIGN_OR_RETURN(const auto file,
                          MappedColumns::Open(folder_ / VectorsName(modality.name)));
  const auto type =
      arrow::fixed_size_list(arrow::field("item", arrow::float16(), false), modality.dim);
  SAVIOR_ASSIGN_OR_RETURN(const auto column, file.Column("vector", *type));
  const auto& lists = static_cast<const arrow::FixedSizeListArray&>(*column);
  const auto& flat = static_cast<const arrow::HalfFloatArray&>(*lists.values());
  if (file.rows() != manifest_.contents || flat.length() != manifest_.contents * modality.dim) {
    return file.Damaged("has not the manifest's rows");
  }
  vectors_.emplace_back(flat.raw_values(), static_cast<size_t>(flat.length()));
  mappings_.push_back(file.batch());
  return absl::OkStatus();
}

absl::StatusOr<DayLog> MappedLog::ReadDay(size_t day) const {
  const DayInfo& info = manifest_.days[day];
  const auto& [file_start, batch] = manifest_.day_places[day];
  SAVIOR_ASSIGN_OR_RETURN(const auto requests,
                          MappedColumns::Open(folder_ / DaysName(file_start, "requests"), batch));
  SAVIOR_ASSIGN_OR_RETURN(const auto rows,
                          MappedColumns::Open(folder_ / DaysName(file_start, "rows"), batch));
  auto mapping = std::make_shared<DayMapping>();
  DayLog log;
  SAVIOR_RETURN_IF_ERROR(ReadRequests(requests, info, &log, &mapping->row_begin));
  SAVIOR_RETURN_IF_ERROR(ReadRows(rows, info, &log));
  mapping->requests = requests.batch();
  mapping->rows = rows.batch();
  log.row_begin = mapping->row_begin;
  log.mapping = std::move(mapping);
  return log;
}

absl::Status MappedLog::ReadRequests(const MappedColumns& file, const DayInfo& info, DayLog* log,
                                     std::vector<int64_t>* row_begin) const {
  std::span<const int32_t> counts;
  SAVIOR_RETURN_IF_ERROR(file.Read("request_id", &log->request_ids));
  SAVIOR_RETURN_IF_ERROR(file.Read("user", &log->users));
  SAVIOR_RETURN_IF_ERROR(file.Read("timestamp", &log->timestamps));
  SAVIOR_RETURN_IF_ERROR(file.Read("history_end", &log->history_end));
  SAVIOR_RETURN_IF_ERROR(file.Read("rows", &counts));
  if (file.rows() != info.requests) return file.Damaged("has not the manifest's rows");
  if (!AllIn(log->users, 0, manifest_.users)) return file.Damaged("a user is out of range");
  if (!AllIn(log->timestamps, info.start, info.start + kSecondsPerDay) ||
      !std::is_sorted(log->timestamps.begin(), log->timestamps.end())) {
    return file.Damaged("timestamps are out of order");
  }
  row_begin->reserve(counts.size() + 1);
  row_begin->push_back(0);
  for (size_t r = 0; r < counts.size(); ++r) {
    const auto history = static_cast<int64_t>(timelines_->Of(log->users[r]).items.size());
    if (log->history_end[r] < 0 || log->history_end[r] > history) {
      return file.Damaged("a history is longer than its user's timeline");
    }
    if (counts[r] <= 0) return file.Damaged("a request has no rows");
    row_begin->push_back(row_begin->back() + counts[r]);
  }
  if (row_begin->back() != info.rows) return file.Damaged("counts other rows than the manifest");
  return absl::OkStatus();
}

absl::Status MappedLog::ReadRows(const MappedColumns& file, const DayInfo& info,
                                 DayLog* log) const {
  if (file.rows() != info.rows) return file.Damaged("has not the manifest's rows");
  SAVIOR_RETURN_IF_ERROR(file.Read("item", &log->items));
  SAVIOR_RETURN_IF_ERROR(file.Read("click", &log->clicks));
  SAVIOR_RETURN_IF_ERROR(file.Read("prior_count", &log->prior_counts));
  if (!AllIn(log->items, 0, manifest_.items)) return file.Damaged("an item is out of range");
  if (!AllIn(log->clicks, 0, 2)) return file.Damaged("a click is not 0 or 1");
  if (schema().has_conversion) {
    SAVIOR_RETURN_IF_ERROR(file.Read("conversion", &log->conversions));
    if (!AllIn(log->conversions, 0, 2)) return file.Damaged("a conversion is not 0 or 1");
  }
  if (schema().has_weight) SAVIOR_RETURN_IF_ERROR(file.Read("weight", &log->weights));
  for (const CategoricalFeature& feature : schema().context_features) {
    log->context.emplace_back();
    SAVIOR_RETURN_IF_ERROR(file.Read(feature.name, &log->context.back()));
    if (!AllIn(log->context.back(), 0, static_cast<int64_t>(feature.vocabulary.size()))) {
      return file.Damaged("a code of '" + feature.name + "' is out of range");
    }
  }
  for (const std::string& name : schema().context_numerics) {
    log->numerics.emplace_back();
    SAVIOR_RETURN_IF_ERROR(file.Read(name, &log->numerics.back()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<TrainingLog>> TrainingLog::Open(const fs::path& folder) {
  return MappedLog::Open(folder);
}

}  // namespace savior
