// behaviours.parquet -> users.arrow, timelines-*.arrow and counts per item and day.
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "common/progress.h"
#include "worker/data/arrow_files.h"
#include "worker/data/prepare_steps.h"

namespace savior {
namespace {

std::vector<RawColumn> BehaviourColumns() {
  return {{"user_id", RawKind::kInt},
          {"item_id", RawKind::kInt},
          {"timestamp", RawKind::kInt},
          {"kind", RawKind::kText}};
}

}  // namespace

BehaviourSorter::BehaviourSorter(const RawTable* table, PrepareWork* work)
    : table_(table), work_(work) {}

absl::Status BehaviourSorter::Check() const { return table_->Check(BehaviourColumns()); }

absl::Status BehaviourSorter::CountUsers() {
  Progress progress("users of behaviours", table_->num_rows(), "behaviours");
  const auto visit = [&](const RawSlice& slice) -> absl::Status {
    for (const int64_t id : slice.columns[0].ints) {
      const auto place = static_cast<size_t>(work_->users.Place(id));
      if (place >= counts_.size()) counts_.resize(place + 1, 0);
      ++counts_[place];
    }
    progress.Update(slice.first_row + slice.rows);
    return absl::OkStatus();
  };
  SAVIOR_RETURN_IF_ERROR(table_->Scan({{"user_id", RawKind::kInt}}, kSliceRows, visit));
  progress.Finish();
  return absl::OkStatus();
}

// Ranges of users whose behaviours fit the memory; a user of more has a range to himself.
void BehaviourSorter::SplitUsers() {
  counts_.resize(work_->user_ids.size(), 0);
  std::vector<int64_t> by_number(counts_.size());
  for (size_t place = 0; place < counts_.size(); ++place) {
    by_number[static_cast<size_t>(work_->user_numbers[place])] = counts_[place];
  }
  counts_ = std::move(by_number);

  const int64_t most = work_->memory_bytes / 16 / static_cast<int64_t>(sizeof(Record));
  std::vector<int64_t>& first_users = work_->manifest.timeline_first_users;
  first_users.push_back(0);
  part_of_user_.resize(counts_.size());
  int64_t held = 0;
  for (size_t user = 0; user < counts_.size(); ++user) {
    if (held > 0 && held + counts_[user] > most) {
      first_users.push_back(static_cast<int64_t>(user));
      held = 0;
    }
    held += counts_[user];
    part_of_user_[user] = static_cast<int32_t>(first_users.size()) - 1;
  }
}

absl::Status BehaviourSorter::Scan() {
  SplitUsers();
  by_part_ = std::make_unique<Spill>(work_->scratch / "behaviours-by-user", sizeof(Record),
                                     std::max<int64_t>(work_->memory_bytes / 4, 1));
  by_day_ = std::make_unique<Spill>(work_->scratch / "behaviours-by-day", sizeof(int32_t),
                                    std::max<int64_t>(work_->memory_bytes / 8, 1));
  std::vector<int32_t> kinds;
  Progress progress("behaviours", table_->num_rows(), "behaviours");
  const auto visit = [&](const RawSlice& slice) -> absl::Status {
    const auto& [users, items, times, kind_cells] = std::tie(
        slice.columns[0].ints, slice.columns[1].ints, slice.columns[2].ints, slice.columns[3].text);
    kinds.resize(static_cast<size_t>(slice.rows));
    if (const auto bad = kinds_.Encode(kind_cells, kinds)) {
      return table_->Refuse(slice.first_row + *bad, "kind", "is not UTF-8");
    }
    for (size_t row = 0; row < kinds.size(); ++row) {
      const int64_t raw_row = slice.first_row + static_cast<int64_t>(row);
      if (kinds[row] == 0) return table_->Refuse(raw_row, "kind", "is missing or empty");
      if (const char* why = TimeProblem(times[row])) {
        return table_->Refuse(raw_row, "timestamp", why);
      }
      const int32_t item = work_->items.Find(items[row]);
      if (item < 0) {
        return table_->Refuse(raw_row, "item_id", absl::StrCat(items[row], " is not in items"));
      }
      const auto place = static_cast<size_t>(work_->users.Place(users[row]));
      if (place >= work_->user_numbers.size()) {
        return table_->Refuse(raw_row, "user_id", "changed while it was read");
      }
      const Record record{.timestamp = times[row],
                          .user = work_->user_numbers[place],
                          .item = item,
                          .kind = kinds[row]};
      SAVIOR_RETURN_IF_ERROR(
          by_part_->Append(part_of_user_[static_cast<size_t>(record.user)], &record));
      SAVIOR_RETURN_IF_ERROR(by_day_->Append(times[row] / kSecondsPerDay, &item));
    }
    progress.Update(slice.first_row + slice.rows);
    return absl::OkStatus();
  };
  SAVIOR_RETURN_IF_ERROR(table_->Scan(BehaviourColumns(), kSliceRows, visit));
  progress.Finish();
  days_ = by_day_->Partitions();
  std::reverse(days_.begin(), days_.end());
  work_->manifest.behaviours = table_->num_rows();
  return absl::OkStatus();
}

absl::Status BehaviourSorter::WriteTimelines() {
  auto kinds = kinds_.Finish();
  if (kinds.values.size() > std::numeric_limits<int8_t>::max()) {
    return table_->RefuseColumn("kind", "has more than 126 different values");
  }
  // A behaviour always has a kind: codes start at 0.
  std::vector<int32_t> final_kinds;
  for (const int32_t code : kinds.final_code) final_kinds.push_back(code - 1);
  work_->manifest.schema.behaviour_kinds.assign(kinds.values.begin() + 1, kinds.values.end());

  for (size_t part = 0; part < work_->manifest.timeline_first_users.size(); ++part) {
    SAVIOR_RETURN_IF_ERROR(WritePart(part, final_kinds));
  }
  by_part_.reset();
  work_->manifest.users = static_cast<int64_t>(work_->user_ids.size());
  ColumnSet users;
  users.AddValues("user_id", std::exchange(work_->user_ids, {}));
  users.AddValues("behaviours", std::exchange(counts_, {}));
  return users.Write(work_->folder / "users.arrow");
}

absl::Status BehaviourSorter::WritePart(size_t part, const std::vector<int32_t>& final_kinds) {
  std::vector<Record> records;
  {
    SAVIOR_ASSIGN_OR_RETURN(const auto bytes, by_part_->Take(static_cast<int64_t>(part)));
    records.resize(bytes.size() / sizeof(Record));
    if (!bytes.empty()) std::memcpy(records.data(), bytes.data(), bytes.size());
  }
  // Stable: behaviours of one second stay in raw order.
  std::stable_sort(records.begin(), records.end(), [](const Record& a, const Record& b) {
    return a.user != b.user ? a.user < b.user : a.timestamp < b.timestamp;
  });
  std::vector<int32_t> items;
  std::vector<int64_t> timestamps;
  std::vector<int8_t> kinds;
  items.reserve(records.size());
  timestamps.reserve(records.size());
  kinds.reserve(records.size());
  for (const Record& record : records) {
    items.push_back(record.item);
    timestamps.push_back(record.timestamp);
    kinds.push_back(static_cast<int8_t>(final_kinds[static_cast<size_t>(record.kind)]));
  }
  ColumnSet file;
  file.AddValues("item", std::move(items));
  file.AddValues("timestamp", std::move(timestamps));
  file.AddValues("kind", std::move(kinds));
  return file.Write(work_->folder / TimelinesName(part));
}

absl::Status BehaviourSorter::AddDaysBefore(int64_t day, std::vector<int32_t>* counts) {
  for (; !days_.empty() && days_.back() < day; days_.pop_back()) {
    SAVIOR_ASSIGN_OR_RETURN(const auto bytes, by_day_->Take(days_.back()));
    for (size_t at = 0; at < bytes.size(); at += sizeof(int32_t)) {
      int32_t item = 0;
      std::memcpy(&item, bytes.data() + at, sizeof(item));
      ++(*counts)[static_cast<size_t>(item)];
    }
  }
  return absl::OkStatus();
}

}  // namespace savior
