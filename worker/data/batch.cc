#include "worker/data/batch.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <span>
#include <utility>

#include "common/random.h"

namespace savior {
namespace {

constexpr int64_t kSecondsPerDay = 86'400;

absl::Status CheckOptions(const BatchOptions& options) {
  const auto refuse = [](const char* what) { return absl::InvalidArgumentError(what); };
  const Period& whole = options.period;
  if (whole.from > whole.until) return refuse("period ends before it begins");
  int64_t after = whole.from;
  for (const int64_t cut : options.cuts) {
    if (cut <= after || cut >= whole.until) return refuse("cuts must ascend, inside the period");
    after = cut;
  }
  if (options.requests_per_batch <= 0) return refuse("requests_per_batch must be positive");
  if (options.max_history < 0) return refuse("max_history must not be negative");
  if (options.shuffle_window < 0) return refuse("shuffle_window must not be negative");
  if (options.worker < 0 || options.worker >= options.workers) {
    return refuse("worker must be 0 to workers - 1");
  }
  return absl::OkStatus();
}

// The part of a day that lies in the period: requests [begin, end) of the day, which are
// [first, first + end - begin) of the period.
struct DaySlice {
  size_t day = 0;  // index into TrainingLog::days()
  int64_t begin = 0;
  int64_t end = 0;
  int64_t first = 0;
};

// Of a period without cuts.
class LogBatchReader final : public BatchReader {
 public:
  LogBatchReader(const TrainingLog* log, const BatchOptions& options)
      : log_(log), options_(options) {}

  absl::Status Open();

  int64_t num_batches() const override { return (requests_ + batch_size_ - 1) / batch_size_; }
  int64_t num_requests() const override { return requests_; }
  int64_t num_rows() const override { return rows_; }
  absl::StatusOr<Batch> Read(int64_t index) override;
  // Lets go of the days that are mapped.
  void Forget() { days_.clear(); }

 private:
  absl::StatusOr<const DayLog*> Day(size_t day);
  size_t SliceOf(int64_t request) const;
  int64_t RequestAt(int64_t position);
  void DropDaysOutside(int64_t first_request, int64_t last_request);
  absl::Status AppendRequest(const DayLog& day, size_t request, Batch* batch) const;
  absl::Status AppendHistory(const DayLog& day, size_t request, Batch* batch) const;
  void AppendRows(const DayLog& day, size_t request, Batch* batch) const;

  const TrainingLog* const log_;
  const BatchOptions options_;
  std::vector<DaySlice> slices_;  // ascending; none is empty
  int64_t requests_ = 0;
  int64_t rows_ = 0;
  // As in the options, but not above `requests_`: which changes nothing, and nothing overflows.
  int64_t batch_size_ = 1;
  int64_t shuffle_window_ = 1;

  // Caches: what they hold changes no batch.
  std::map<size_t, DayLog> days_;     // by index into TrainingLog::days()
  int64_t window_ = -1;               // window of permutation_
  std::vector<int64_t> permutation_;  // offset in the window -> offset in time order
};

absl::Status LogBatchReader::Open() {
  const auto& [from, until] = options_.period;
  for (size_t i = 0; i < log_->days().size(); ++i) {
    const DayInfo& info = log_->days()[i];
    if (info.start >= until || info.start + kSecondsPerDay <= from) continue;
    DaySlice slice{.day = i, .begin = 0, .end = info.requests, .first = requests_};
    int64_t rows = info.rows;
    if (from > info.start || until < info.start + kSecondsPerDay) {
      SAVIOR_ASSIGN_OR_RETURN(const DayLog* day, Day(i));
      const auto times = day->timestamps;
      slice.begin = std::lower_bound(times.begin(), times.end(), from) - times.begin();
      slice.end = std::lower_bound(times.begin(), times.end(), until) - times.begin();
      rows = day->row_begin[static_cast<size_t>(slice.end)] -
             day->row_begin[static_cast<size_t>(slice.begin)];
    }
    if (slice.begin == slice.end) continue;
    requests_ += slice.end - slice.begin;
    rows_ += rows;
    slices_.push_back(slice);
  }
  days_.clear();
  batch_size_ = std::clamp<int64_t>(requests_, 1, options_.requests_per_batch);
  shuffle_window_ =
      std::min(std::max<int64_t>(requests_, 1), std::max<int64_t>(options_.shuffle_window, 1));
  return absl::OkStatus();
}

absl::StatusOr<const DayLog*> LogBatchReader::Day(size_t day) {
  auto found = days_.find(day);
  if (found == days_.end()) {
    SAVIOR_ASSIGN_OR_RETURN(DayLog log, log_->ReadDay(day));
    found = days_.emplace(day, std::move(log)).first;
  }
  return &found->second;
}

size_t LogBatchReader::SliceOf(int64_t request) const {
  const auto after =
      std::upper_bound(slices_.begin(), slices_.end(), request,
                       [](int64_t wanted, const DaySlice& slice) { return wanted < slice.first; });
  return static_cast<size_t>(after - slices_.begin()) - 1;
}

// The request (in time order) at `position` of the shuffled order.
int64_t LogBatchReader::RequestAt(int64_t position) {
  if (shuffle_window_ == 1) return position;
  const int64_t window = position / shuffle_window_;
  const int64_t begin = window * shuffle_window_;
  if (window != window_) {
    const int64_t size = std::min(shuffle_window_, requests_ - begin);
    permutation_.resize(static_cast<size_t>(size));
    std::iota(permutation_.begin(), permutation_.end(), int64_t{0});
    Random random(options_.seed, static_cast<uint64_t>(window));
    for (size_t i = permutation_.size(); i > 1; --i) {
      std::swap(permutation_[i - 1], permutation_[random.Below(i)]);
    }
    window_ = window;
  }
  return begin + permutation_[static_cast<size_t>(position - begin)];
}

void LogBatchReader::DropDaysOutside(int64_t first_request, int64_t last_request) {
  const size_t first = slices_[SliceOf(first_request)].day;
  const size_t last = slices_[SliceOf(last_request)].day;
  std::erase_if(days_, [first, last](const auto& entry) {
    return entry.first < first || entry.first > last;
  });
}

absl::StatusOr<Batch> LogBatchReader::Read(int64_t index) {
  if (index < 0 || index >= num_batches()) {
    return absl::InvalidArgumentError(
        absl::StrCat("batch ", index, " of ", num_batches(), " asked for"));
  }
  const int64_t begin = index * batch_size_;
  const int64_t end = std::min(begin + batch_size_, requests_);
  // The days of the windows that the batch touches stay mapped; the next batch will want them.
  const int64_t last_window = (end - 1) / shuffle_window_;
  DropDaysOutside(begin / shuffle_window_ * shuffle_window_,
                  std::min((last_window + 1) * shuffle_window_, requests_) - 1);

  Batch batch;
  batch.row_offsets.push_back(0);
  batch.history_offsets.push_back(0);
  batch.context.resize(log_->schema().context_features.size());
  batch.numerics.resize(log_->schema().context_numerics.size());
  batch.global_requests = end - begin;
  const int64_t slice_begin = begin + options_.worker * (end - begin) / options_.workers;
  const int64_t slice_end = begin + (options_.worker + 1) * (end - begin) / options_.workers;
  for (int64_t position = begin; position < end; ++position) {
    const int64_t wanted = RequestAt(position);
    const DaySlice& slice = slices_[SliceOf(wanted)];
    SAVIOR_ASSIGN_OR_RETURN(const DayLog* day, Day(slice.day));
    const auto request = static_cast<size_t>(slice.begin + wanted - slice.first);
    batch.global_rows += day->row_begin[request + 1] - day->row_begin[request];
    if (position >= slice_begin && position < slice_end) {
      SAVIOR_RETURN_IF_ERROR(AppendRequest(*day, request, &batch));
    }
  }
  return batch;
}

absl::Status LogBatchReader::AppendRequest(const DayLog& day, size_t request, Batch* batch) const {
  batch->request_ids.push_back(day.request_ids[request]);
  batch->users.push_back(day.users[request]);
  batch->timestamps.push_back(day.timestamps[request]);
  SAVIOR_RETURN_IF_ERROR(AppendHistory(day, request, batch));
  AppendRows(day, request, batch);
  constexpr size_t kMost = std::numeric_limits<int32_t>::max();
  if (batch->items.size() > kMost || batch->history_items.size() > kMost) {
    return absl::InvalidArgumentError("a batch has more than 2^31 rows: lower requests_per_batch");
  }
  batch->row_offsets.push_back(static_cast<int32_t>(batch->items.size()));
  batch->history_offsets.push_back(static_cast<int32_t>(batch->history_items.size()));
  return absl::OkStatus();
}

absl::Status LogBatchReader::AppendHistory(const DayLog& day, size_t request, Batch* batch) const {
  const Timeline timeline = log_->timeline(day.users[request]);
  const int64_t end = day.history_end[request];
  const int64_t begin = std::max<int64_t>(0, end - options_.max_history);
  const auto from = static_cast<size_t>(begin);
  const auto count = static_cast<size_t>(end - begin);
  for (const int32_t item : timeline.items.subspan(from, count)) {
    // Timelines are too long to be checked when the log is opened.
    if (item < 0 || item >= log_->num_items()) {
      return absl::DataLossError(absl::StrCat("timeline of user number ", day.users[request],
                                              ": item ", item, " is out of range"));
    }
    batch->history_items.push_back(item);
  }
  const auto times = timeline.timestamps.subspan(from, count);
  const auto kinds = timeline.kinds.subspan(from, count);
  batch->history_times.insert(batch->history_times.end(), times.begin(), times.end());
  batch->history_kinds.insert(batch->history_kinds.end(), kinds.begin(), kinds.end());
  return absl::OkStatus();
}

void LogBatchReader::AppendRows(const DayLog& day, size_t request, Batch* batch) const {
  const auto begin = static_cast<size_t>(day.row_begin[request]);
  const auto count = static_cast<size_t>(day.row_begin[request + 1]) - begin;
  // `column` may be empty, if the data has none: then `missing` stands in.
  const auto append = [begin, count](const auto& column, float missing, std::vector<float>* to) {
    if (column.empty()) {
      to->insert(to->end(), count, missing);
    } else {
      const auto values = column.subspan(begin, count);
      to->insert(to->end(), values.begin(), values.end());
    }
  };
  const auto copy = [begin, count](const auto& column, auto* to) {
    const auto values = column.subspan(begin, count);
    to->insert(to->end(), values.begin(), values.end());
  };
  copy(day.items, &batch->items);
  copy(day.prior_counts, &batch->prior_counts);
  append(day.clicks, 0.0f, &batch->clicks);
  append(day.conversions, 0.0f, &batch->conversions);
  append(day.weights, 1.0f, &batch->weights);
  for (size_t f = 0; f < batch->context.size(); ++f) copy(day.context[f], &batch->context[f]);
  for (size_t f = 0; f < batch->numerics.size(); ++f) copy(day.numerics[f], &batch->numerics[f]);
}

// Segment after segment.
class SegmentReader final : public BatchReader {
 public:
  static absl::StatusOr<std::unique_ptr<BatchReader>> Open(const TrainingLog* log,
                                                           const BatchOptions& options) {
    std::unique_ptr<SegmentReader> reader(new SegmentReader);
    BatchOptions segment = options;
    segment.cuts.clear();
    std::vector<int64_t> ends = options.cuts;
    ends.push_back(options.period.until);
    for (const int64_t end : ends) {
      segment.period.until = end;
      auto of = std::make_unique<LogBatchReader>(log, segment);
      SAVIOR_RETURN_IF_ERROR(of->Open());
      reader->first_batch_.push_back(reader->batches_);
      reader->batches_ += of->num_batches();
      reader->requests_ += of->num_requests();
      reader->rows_ += of->num_rows();
      reader->segments_.push_back(std::move(of));
      segment.period.from = end;
      // So that windows of the same number are not shuffled alike.
      segment.seed = MixTwo(options.seed, static_cast<uint64_t>(end));
    }
    return reader;
  }

  int64_t num_batches() const override { return batches_; }
  int64_t num_requests() const override { return requests_; }
  int64_t num_rows() const override { return rows_; }
  absl::StatusOr<Batch> Read(int64_t index) override {
    // Of segments without batches, which begin where the next one does, the last is found.
    const auto after = std::ranges::upper_bound(first_batch_, std::max<int64_t>(index, 0));
    const auto at = static_cast<size_t>(after - first_batch_.begin()) - 1;
    if (at != at_) segments_[at_]->Forget();
    at_ = at;
    return segments_[at]->Read(index - first_batch_[at]);
  }

 private:
  SegmentReader() = default;

  std::vector<std::unique_ptr<LogBatchReader>> segments_;
  std::vector<int64_t> first_batch_;  // [segments]
  int64_t batches_ = 0, requests_ = 0, rows_ = 0;
  size_t at_ = 0;  // read last
};

}  // namespace

absl::StatusOr<std::unique_ptr<BatchReader>> BatchReader::Create(const TrainingLog* log,
                                                                 const BatchOptions& options) {
  SAVIOR_RETURN_IF_ERROR(CheckOptions(options));
  if (!options.cuts.empty()) return SegmentReader::Open(log, options);
  auto reader = std::make_unique<LogBatchReader>(log, options);
  SAVIOR_RETURN_IF_ERROR(reader->Open());
  return reader;
}

}  // namespace savior
