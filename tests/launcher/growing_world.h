// A raw data set that grows by days: what is known on a day, and everything that changes when a log
// is prepared again with more: numbers of items and users, codes of strings, kinds of behaviour.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>

#include "common/random.h"
#include "tests/launcher/small_run.h"
#include "tests/worker/data/raw_tables.h"

namespace savior {

inline constexpr int64_t kWorldStart = 1'700'006'400;  // 2023-11-15
inline constexpr int kWorldDays = 11;
inline constexpr int kRequestsPerDay = 41;
inline constexpr int64_t kFirstSharer = 50'000;  // ids of items with an older item's vector

inline int64_t DayOf(int day) { return kWorldStart + day * kDaySeconds; }
inline std::string DateOf(int day) { return FormatDate(DayOf(day)); }

// Everything that will ever be known. Ids of items and users descend, so that every later one gets
// a smaller number than all before; strings of later days are more frequent than those of earlier
// ones, so that codes change.
inline testing::RawData WholeWorld() {
  testing::RawData raw;
  Random random(77);
  const auto below = [&random](int64_t n) {
    return static_cast<int64_t>(random.Below(static_cast<uint64_t>(n)));
  };
  constexpr int64_t kOld = 60, kDaily = 8;
  for (int64_t i = 0; i < kOld + kDaily * kWorldDays; ++i) {
    const int64_t day = i < kOld ? -5 : (i - kOld) / kDaily;
    const bool shares = i > kOld && i % kDaily == 3;
    testing::RawItem item{.id = shares ? kFirstSharer + i : 10'000 - 7 * i,
                          .listed = DayOf(static_cast<int>(day)) + 100,
                          .title = "item " + std::to_string(i),
                          .brand = "brand " + std::to_string(day < 6 ? below(3) : 7 + below(2)),
                          .price = static_cast<float>(below(100))};
    std::vector<float> vector;
    for (int d = 0; d < 16; ++d) {
      // Halves hold these exactly.
      vector.push_back(static_cast<float>(below(64) - 32) / 16.0f);
    }
    if (shares) vector = *raw.vectors[static_cast<size_t>(below(20))].text;
    raw.items.push_back(item);
    if (i % 11 != 5) raw.vectors.push_back({.id = item.id, .text = vector});
  }
  int64_t request = 1'000'000;
  for (int day = 0; day < kWorldDays; ++day) {
    const int64_t listed = kOld + kDaily * (day + 1);
    for (int r = 0; r < kRequestsPerDay; ++r) {
      testing::RawImpression row;
      row.request = request--;
      row.user = 900 - below(20 + 4 * day);
      row.time = DayOf(day) + 1000 + below(80'000);
      const int64_t first = below(listed);
      for (int64_t c = 0; c < 4; ++c) {
        // Every day's first candidates are of that day.
        const int64_t i = c == 0 && r < 8 ? listed - 1 - r : (first + c * 13) % listed;
        row.item = raw.items[static_cast<size_t>(i)].id;
        row.click = static_cast<int>(i % 3 == 0 ? below(4) > 0 : below(4) == 0);
        row.conversion = row.click * static_cast<int>(below(2));
        row.weight = 1.0f + static_cast<float>(below(2));
        row.channel = std::string(1, static_cast<char>('p' + below(3)));
        if (day >= 6 && below(3) > 0) row.channel = "a new channel";
        row.hour = static_cast<float>(below(24));
        raw.impressions.push_back(row);
        if (row.click == 0) continue;
        raw.behaviours.push_back({.user = row.user,
                                  .item = row.item,
                                  .time = row.time + 5,
                                  .kind = day < 6 ? "click" : "a new kind"});
      }
    }
  }
  return raw;
}

// What of it is known when day `day` begins.
inline testing::RawData KnownBy(testing::RawData raw, int day) {
  const int64_t now = DayOf(day);
  std::erase_if(raw.impressions, [&](const auto& row) { return row.time >= now; });
  std::erase_if(raw.behaviours, [&](const auto& row) { return row.time >= now; });
  std::erase_if(raw.items, [&](const auto& item) { return item.listed >= now; });
  std::erase_if(raw.vectors, [&](const auto& vector) {
    return std::ranges::none_of(raw.items, [&](const auto& item) { return item.id == vector.id; });
  });
  return raw;
}

// Replaces what is in <folder>/raw.
inline void WriteWorld(const testing::RawData& raw, const std::filesystem::path& folder) {
  testing::WriteTables(raw.Tables(), folder / "raw");
}

// A run called `name` on <folder>/raw that trains until day `until` and scores the day behind.
inline Config WorldRun(const std::filesystem::path& folder, const std::string& name, int until) {
  Config config = SmallRun(folder, name);
  config.data.train_from = DateOf(0);
  config.data.train_until = config.data.eval_from = DateOf(until);
  config.data.eval_until = DateOf(until + 1);
  config.train.shuffle_window = 50;
  config.codebook.codes = 6;
  return config;
}

}  // namespace savior
