// A training log in memory, for tests: fill it, then hand it out as a TrainingLog.
#pragma once

#include <absl/status/status.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/half.h"
#include "worker/data/training_log.h"

namespace savior {

// Behaviours may be added in any order; timelines are ascending in time, ties as added. Spans die
// with the next Add.
class FakeLog final : public TrainingLog {
 public:
  explicit FakeLog(std::vector<Modality> modalities = {}) {
    schema_.modalities = std::move(modalities);
    schema_.behaviour_kinds = {"purchase"};
    vectors_.resize(schema_.modalities.size());
  }

  // Its content number. `vectors`: one of each modality.
  int32_t AddContent(const std::vector<std::vector<float>>& vectors) {
    for (size_t m = 0; m < vectors.size(); ++m) {
      for (const float v : vectors[m]) vectors_[m].push_back(HalfOf(v));
    }
    return num_contents_++;
  }

  // Its item number. `content` -1: no vector.
  int32_t AddItem(int32_t content, int64_t listed_at = 0, std::string title = "") {
    item_ids_.push_back(1000 + num_items());
    listed_at_.push_back(listed_at);
    item_contents_.push_back(content);
    titles_.push_back(std::move(title));
    for (auto& codes : item_features_) codes.push_back(0);
    for (auto& values : item_numerics_) values.push_back(0.0f);
    return static_cast<int32_t>(num_items() - 1);
  }

  void AddBehaviour(int64_t user, int32_t item, int64_t timestamp, int8_t kind = 0) {
    while (num_users() <= user) {
      user_ids_.push_back(1 + num_users());
      timelines_.emplace_back();
    }
    Behaviours& own = timelines_[static_cast<size_t>(user)];
    const auto at = std::ranges::upper_bound(own.timestamps, timestamp) - own.timestamps.begin();
    own.timestamps.insert(own.timestamps.begin() + at, timestamp);
    own.items.insert(own.items.begin() + at, item);
    own.kinds.insert(own.kinds.begin() + at, kind);
  }

  // `day`'s spans must outlive the log, or lie in day.mapping.
  void AddDay(const DayInfo& info, DayLog day) {
    days_.push_back(info);
    day_logs_.push_back(std::move(day));
  }

  LogSchema* mutable_schema() { return &schema_; }
  // One array per feature of the schema, [items].
  std::vector<std::vector<int32_t>>* mutable_item_features() { return &item_features_; }
  std::vector<std::vector<float>>* mutable_item_numerics() { return &item_numerics_; }

  const LogSchema& schema() const override { return schema_; }
  const std::string& fingerprint() const override { return fingerprint_; }
  int64_t num_items() const override { return static_cast<int64_t>(item_ids_.size()); }
  int64_t num_users() const override { return static_cast<int64_t>(user_ids_.size()); }
  int64_t num_contents() const override { return num_contents_; }
  std::span<const int64_t> item_ids() const override { return item_ids_; }
  std::span<const int64_t> listed_at() const override { return listed_at_; }
  std::span<const int32_t> item_contents() const override { return item_contents_; }
  std::span<const int32_t> item_feature(size_t feature) const override {
    return item_features_[feature];
  }
  std::span<const float> item_numeric(size_t feature) const override {
    return item_numerics_[feature];
  }
  std::string_view title(int64_t item) const override { return titles_[static_cast<size_t>(item)]; }
  std::span<const int64_t> user_ids() const override { return user_ids_; }
  std::span<const uint16_t> vectors(size_t modality) const override { return vectors_[modality]; }

  Timeline timeline(int64_t user) const override {
    const Behaviours& own = timelines_[static_cast<size_t>(user)];
    return {.items = own.items, .timestamps = own.timestamps, .kinds = own.kinds};
  }

  const std::vector<DayInfo>& days() const override { return days_; }
  absl::StatusOr<DayLog> ReadDay(size_t day) const override {
    if (day >= day_logs_.size()) return absl::NotFoundError("no such day");
    return day_logs_[day];
  }

 private:
  struct Behaviours {
    std::vector<int32_t> items;
    std::vector<int64_t> timestamps;
    std::vector<int8_t> kinds;
  };

  LogSchema schema_;
  std::string fingerprint_ = "fake";
  int32_t num_contents_ = 0;
  std::vector<int64_t> item_ids_;
  std::vector<int64_t> listed_at_;
  std::vector<int32_t> item_contents_;
  std::vector<std::string> titles_;
  std::vector<std::vector<int32_t>> item_features_;
  std::vector<std::vector<float>> item_numerics_;
  std::vector<int64_t> user_ids_;
  std::vector<Behaviours> timelines_;
  std::vector<std::vector<uint16_t>> vectors_;  // per modality: [contents, dim]
  std::vector<DayInfo> days_;
  std::vector<DayLog> day_logs_;
};

}  // namespace savior
