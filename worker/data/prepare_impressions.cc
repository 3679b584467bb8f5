// impressions.parquet -> days/<date>-requests.arrow and days/<date>-rows.arrow.
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "common/files.h"
#include "common/progress.h"
#include "common/random.h"
#include "worker/data/arrow_files.h"
#include "worker/data/prepare_steps.h"

namespace savior {
namespace {

// The first columns, always in this order; conversion, weight, ctx_* and num_* follow.
enum FixedColumn : size_t { kRequest, kUser, kItem, kTimestamp, kClick, kFixedColumns };

std::vector<RawColumn> ImpressionColumns(const RawTable& table) {
  std::vector<RawColumn> columns = {{"request_id", RawKind::kInt},
                                    {"user_id", RawKind::kInt},
                                    {"item_id", RawKind::kInt},
                                    {"timestamp", RawKind::kInt},
                                    {"click", RawKind::kInt}};
  if (table.Has("conversion")) columns.push_back({"conversion", RawKind::kInt});
  if (table.Has("weight")) columns.push_back({"weight", RawKind::kReal});
  for (const auto& name : table.NamesWithPrefix("ctx_")) columns.push_back({name, RawKind::kText});
  for (const auto& name : table.NamesWithPrefix("num_")) {
    columns.push_back({name, RawKind::kFeature});
  }
  return columns;
}

template <typename T>
T ReadAt(const std::vector<char>& bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

// With a budget of 1 GiB a pair of day files takes days up to a million rows: a file costs its
// publication an fsync, and years of quiet days would cost thousands.
constexpr int64_t kBytesPerFileRow = 1024;

// A pair of files under way, a record batch per day.
class DayFiles {
 public:
  // `start` is the first day's.
  DayFiles(const std::filesystem::path& folder, int64_t start)
      : start_(start),
        requests_file_(folder / DaysName(start, "requests")),
        rows_file_(folder / DaysName(start, "rows")) {}

  absl::Status Append(const ColumnSet& requests, const ColumnSet& rows, const DayInfo& info,
                      LogManifest* manifest) {
    SAVIOR_RETURN_IF_ERROR(requests_file_.Append(requests));
    SAVIOR_RETURN_IF_ERROR(rows_file_.Append(rows));
    manifest->days.push_back(info);
    manifest->day_places.push_back({.file_start = start_, .batch = days_++});
    rows_ += info.rows;
    return absl::OkStatus();
  }

  absl::Status Close() {
    SAVIOR_RETURN_IF_ERROR(requests_file_.Close());
    return rows_file_.Close();
  }

  int64_t rows() const { return rows_; }

 private:
  const int64_t start_;
  ColumnWriter requests_file_;
  ColumnWriter rows_file_;
  int days_ = 0;
  int64_t rows_ = 0;
};

}  // namespace

ImpressionSorter::ImpressionSorter(const RawTable* table, PrepareWork* work)
    : table_(table),
      work_(work),
      context_(table->NamesWithPrefix("ctx_")),
      numerics_(table->NamesWithPrefix("num_")),
      has_conversion_(table->Has("conversion")),
      has_weight_(table->Has("weight")),
      columns_(ImpressionColumns(*table)),
      record_bytes_(sizeof(Head) + sizeof(int32_t) * (context_.size() + numerics_.size())),
      by_day_(work->scratch / "impressions", static_cast<int64_t>(record_bytes_),
              std::max<int64_t>(work->memory_bytes / 2, 1)),
      vocabularies_(context_.size()),
      slice_codes_(context_.size()) {}

absl::Status ImpressionSorter::Check() const { return table_->Check(columns_); }

absl::Status ImpressionSorter::Scan() {
  Spill keys(work_->scratch / "requests", sizeof(RequestKey),
             std::max<int64_t>(work_->memory_bytes / 4, 1));
  Progress progress("impressions", table_->num_rows(), "impressions");
  const auto visit = [&](const RawSlice& slice) -> absl::Status {
    SAVIOR_RETURN_IF_ERROR(ScanSlice(slice, &keys));
    progress.Update(slice.first_row + slice.rows);
    return absl::OkStatus();
  };
  SAVIOR_RETURN_IF_ERROR(table_->Scan(columns_, kSliceRows, visit));
  progress.Finish();
  SAVIOR_RETURN_IF_ERROR(CheckRequests(&keys));

  LogManifest& manifest = work_->manifest;
  manifest.impressions = table_->num_rows();
  manifest.schema.has_conversion = has_conversion_;
  manifest.schema.has_weight = has_weight_;
  manifest.schema.context_numerics = numerics_;
  for (size_t f = 0; f < context_.size(); ++f) {
    auto vocabulary = vocabularies_[f].Finish();
    manifest.schema.context_features.push_back({context_[f], std::move(vocabulary.values)});
    final_codes_.push_back(std::move(vocabulary.final_code));
  }
  vocabularies_.clear();
  return absl::OkStatus();
}

absl::Status ImpressionSorter::ScanSlice(const RawSlice& slice, Spill* keys) {
  const size_t first_context = kFixedColumns + (has_conversion_ ? 1 : 0) + (has_weight_ ? 1 : 0);
  for (size_t f = 0; f < context_.size(); ++f) {
    slice_codes_[f].resize(static_cast<size_t>(slice.rows));
    const auto bad =
        vocabularies_[f].Encode(slice.columns[first_context + f].text, slice_codes_[f]);
    if (bad) return table_->Refuse(slice.first_row + *bad, context_[f], "is not UTF-8");
  }
  // So many that one of them fits an eighth of the memory.
  const uint64_t partitions = 1 + static_cast<uint64_t>(table_->num_rows()) * sizeof(RequestKey) *
                                      8 / static_cast<uint64_t>(work_->memory_bytes);
  std::vector<char> record(record_bytes_);
  for (size_t row = 0; row < static_cast<size_t>(slice.rows); ++row) {
    Head head;
    SAVIOR_RETURN_IF_ERROR(ReadLabels(slice, row, &head));
    head.user = work_->users.Place(slice.columns[kUser].ints[row]);

    const RequestKey key{.request_id = head.request_id,
                         .timestamp = head.timestamp,
                         .row = slice.first_row + static_cast<int64_t>(row),
                         .user = head.user};
    if (key.row == 0 || key.request_id != last_key_.request_id || key.user != last_key_.user ||
        key.timestamp != last_key_.timestamp) {
      const uint64_t partition = Mix(static_cast<uint64_t>(key.request_id)) % partitions;
      SAVIOR_RETURN_IF_ERROR(keys->Append(static_cast<int64_t>(partition), &key));
      last_key_ = key;
    }

    char* out = record.data();
    std::memcpy(out, &head, sizeof(head));
    out += sizeof(head);
    for (size_t f = 0; f < context_.size(); ++f, out += sizeof(int32_t)) {
      std::memcpy(out, &slice_codes_[f][row], sizeof(int32_t));
    }
    for (size_t f = 0; f < numerics_.size(); ++f, out += sizeof(float)) {
      std::memcpy(out, &slice.columns[first_context + context_.size() + f].reals[row],
                  sizeof(float));
    }
    SAVIOR_RETURN_IF_ERROR(by_day_.Append(head.timestamp / kSecondsPerDay, record.data()));
  }
  return absl::OkStatus();
}

absl::Status ImpressionSorter::ReadLabels(const RawSlice& slice, size_t row, Head* head) const {
  const int64_t raw_row = slice.first_row + static_cast<int64_t>(row);
  head->request_id = slice.columns[kRequest].ints[row];
  head->timestamp = slice.columns[kTimestamp].ints[row];
  if (const char* why = TimeProblem(head->timestamp)) {
    return table_->Refuse(raw_row, "timestamp", why);
  }
  const int64_t item_id = slice.columns[kItem].ints[row];
  head->item = work_->items.Find(item_id);
  if (head->item < 0) {
    return table_->Refuse(raw_row, "item_id", absl::StrCat(item_id, " is not in items"));
  }
  const int64_t click = slice.columns[kClick].ints[row];
  if (click != 0 && click != 1) {
    return table_->Refuse(raw_row, "click", absl::StrCat("is ", click, ", not 0 or 1"));
  }
  head->click = static_cast<int8_t>(click);
  size_t column = kFixedColumns;
  if (has_conversion_) {
    const int64_t conversion = slice.columns[column++].ints[row];
    if (conversion != 0 && conversion != 1) {
      return table_->Refuse(raw_row, "conversion", absl::StrCat("is ", conversion, ", not 0 or 1"));
    }
    if (conversion == 1 && click == 0) {
      return table_->Refuse(raw_row, "conversion", "is 1 without a click");
    }
    head->conversion = static_cast<int8_t>(conversion);
  }
  if (has_weight_) {
    head->weight = slice.columns[column].reals[row];
    if (head->weight <= 0.0f) {
      return table_->Refuse(raw_row, "weight", absl::StrCat("is ", head->weight, ", not positive"));
    }
  }
  return absl::OkStatus();
}

absl::Status ImpressionSorter::CheckRequests(Spill* keys) const {
  for (const int64_t partition : keys->Partitions()) {
    SAVIOR_ASSIGN_OR_RETURN(const auto bytes, keys->Take(partition));
    std::vector<RequestKey> runs(bytes.size() / sizeof(RequestKey));
    std::memcpy(runs.data(), bytes.data(), bytes.size());
    std::sort(runs.begin(), runs.end(), [](const RequestKey& a, const RequestKey& b) {
      return std::tie(a.request_id, a.row) < std::tie(b.request_id, b.row);
    });
    for (size_t i = 1; i < runs.size(); ++i) {
      const RequestKey& a = runs[i - 1];
      const RequestKey& b = runs[i];
      if (a.request_id != b.request_id) continue;
      const std::string request = absl::StrCat("request ", b.request_id, " has ");
      const auto other = [&](int64_t here, int64_t there) {
        return absl::StrCat(request, here, " here and ", there, " at ", table_->Where(a.row));
      };
      if (a.user != b.user) {
        const std::vector<int64_t>& ids = work_->users.ids();
        return table_->Refuse(
            b.row, "user_id",
            other(ids[static_cast<size_t>(b.user)], ids[static_cast<size_t>(a.user)]));
      }
      if (a.timestamp != b.timestamp) {
        return table_->Refuse(b.row, "timestamp", other(b.timestamp, a.timestamp));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status ImpressionSorter::WriteDays(const Timelines& timelines, BehaviourSorter* behaviours) {
  SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(work_->folder / "days"));
  std::vector<int32_t> prior_counts(static_cast<size_t>(work_->items.size()), 0);
  LogManifest& manifest = work_->manifest;
  Progress progress("days", manifest.impressions, "impressions");
  int64_t done = 0;
  const int64_t rows_per_file = work_->memory_bytes / kBytesPerFileRow;
  std::unique_ptr<DayFiles> files;
  for (const int64_t number : by_day_.Partitions()) {
    SAVIOR_RETURN_IF_ERROR(behaviours->AddDaysBefore(number, &prior_counts));
    SAVIOR_ASSIGN_OR_RETURN(auto bytes, by_day_.Take(number));
    const DayRows day = SortDay(std::move(bytes));
    const ColumnSet requests = Requests(day, timelines);
    const DayInfo info{.start = number * kSecondsPerDay,
                       .requests = requests.ToBatch()->num_rows(),
                       .rows = static_cast<int64_t>(day.order.size())};
    if (files == nullptr) files = std::make_unique<DayFiles>(work_->folder, info.start);
    SAVIOR_RETURN_IF_ERROR(files->Append(requests, Rows(day, prior_counts), info, &manifest));
    if (files->rows() >= rows_per_file) {
      SAVIOR_RETURN_IF_ERROR(files->Close());
      files.reset();
    }
    manifest.requests += info.requests;
    progress.Update(done += info.rows);
  }
  if (files != nullptr) SAVIOR_RETURN_IF_ERROR(files->Close());
  progress.Finish();
  return absl::OkStatus();
}

ImpressionSorter::DayRows ImpressionSorter::SortDay(std::vector<char> bytes) const {
  struct Key {
    int64_t timestamp;
    int64_t request_id;
    size_t offset;  // ascends with the raw order
    bool operator<(const Key& other) const {
      return std::tie(timestamp, request_id, offset) <
             std::tie(other.timestamp, other.request_id, other.offset);
    }
  };
  std::vector<Key> keys;
  keys.reserve(bytes.size() / record_bytes_);
  for (size_t at = 0; at < bytes.size(); at += record_bytes_) {
    const Head head = ReadAt<Head>(bytes, at);
    keys.push_back({head.timestamp, head.request_id, at});
  }
  std::sort(keys.begin(), keys.end());
  DayRows day;
  day.order.reserve(keys.size());
  for (const Key& key : keys) day.order.push_back(key.offset);
  day.bytes = std::move(bytes);
  return day;
}

ImpressionSorter::Head ImpressionSorter::HeadAt(const DayRows& day, size_t row) const {
  return ReadAt<Head>(day.bytes, day.order[row]);
}

ColumnSet ImpressionSorter::Requests(const DayRows& day, const Timelines& timelines) const {
  std::vector<int64_t> request_ids;
  std::vector<int64_t> timestamps;
  std::vector<int64_t> history_end;
  std::vector<int32_t> users;
  std::vector<int32_t> rows;
  for (size_t row = 0; row < day.order.size(); ++row) {
    const Head head = HeadAt(day, row);
    if (!rows.empty() && request_ids.back() == head.request_id) {
      ++rows.back();
      continue;
    }
    const int32_t user = work_->user_numbers[static_cast<size_t>(head.user)];
    // Strictly before: what happened in the request's own second may be its outcome.
    const auto times = timelines.Of(user).timestamps;
    const auto end = std::lower_bound(times.begin(), times.end(), head.timestamp);
    request_ids.push_back(head.request_id);
    timestamps.push_back(head.timestamp);
    history_end.push_back(end - times.begin());
    users.push_back(user);
    rows.push_back(1);
  }
  ColumnSet file;
  file.AddValues("request_id", std::move(request_ids));
  file.AddValues("user", std::move(users));
  file.AddValues("timestamp", std::move(timestamps));
  file.AddValues("history_end", std::move(history_end));
  file.AddValues("rows", std::move(rows));
  return file;
}

ColumnSet ImpressionSorter::Rows(const DayRows& day, const std::vector<int32_t>& prior_counts) {
  const size_t rows = day.order.size();
  ColumnSet file;
  // One column at a time: `make` computes its value from a row's head.
  const auto add = [&](const std::string& name, auto make) {
    std::vector<decltype(make(Head()))> column;
    column.reserve(rows);
    for (size_t row = 0; row < rows; ++row) column.push_back(make(HeadAt(day, row)));
    file.AddValues(name, std::move(column));
  };
  add("item", [](const Head& head) { return head.item; });
  add("click", [&](const Head& head) {
    work_->manifest.clicks += head.click;
    return head.click;
  });
  if (has_conversion_) {
    add("conversion", [&](const Head& head) {
      work_->manifest.conversions += head.conversion;
      return head.conversion;
    });
  }
  if (has_weight_) add("weight", [](const Head& head) { return head.weight; });
  add("prior_count",
      [&](const Head& head) { return prior_counts[static_cast<size_t>(head.item)]; });

  size_t offset = sizeof(Head);
  for (size_t f = 0; f < context_.size(); ++f, offset += sizeof(int32_t)) {
    std::vector<int32_t> codes;
    codes.reserve(rows);
    for (const size_t at : day.order) {
      const auto provisional = ReadAt<int32_t>(day.bytes, at + offset);
      codes.push_back(final_codes_[f][static_cast<size_t>(provisional)]);
    }
    file.AddValues(context_[f], std::move(codes));
  }
  for (const std::string& name : numerics_) {
    std::vector<float> values;
    values.reserve(rows);
    for (const size_t at : day.order) values.push_back(ReadAt<float>(day.bytes, at + offset));
    file.AddValues(name, std::move(values));
    offset += sizeof(float);
  }
  return file;
}

}  // namespace savior
