#include "worker/data/log_proof.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "tests/worker/data/raw_tables.h"

namespace savior {
namespace {

using ::testing::AllOf;
using testing::Folder;
using ::testing::HasSubstr;
using testing::kDay;
using testing::kStart;
using testing::RawData;

constexpr Period kTrained = {kStart + kDay, kStart + 4 * kDay};
constexpr Period kLonger = {kTrained.from, kStart + 6 * kDay};

testing::RawItem Item(int64_t id, const std::string& brand = "") {
  return {.id = id, .listed = kStart, .title = "", .brand = brand, .price = {}};
}

// Six days; what comes after the fourth is what the log grows by.
RawData Grown() { return testing::RandomRaw(31, 120, 6); }

RawData Former() {
  RawData raw = Grown();
  std::erase_if(raw.impressions, [](const auto& row) { return row.time >= kTrained.until; });
  std::erase_if(raw.behaviours, [](const auto& row) { return row.time >= kTrained.until; });
  return raw;
}

class LogProofTest : public ::testing::Test {
 protected:
  std::unique_ptr<TrainingLog> Open(const RawData& raw) {
    return PrepareAndOpen(raw, folder_, "log-" + std::to_string(logs_++));
  }
  // What CheckGrown says of `raw`, after Former().
  absl::Status GrownTo(const RawData& raw) {
    const auto former = Open(Former());
    const auto now = Open(raw);
    return CheckGrown(*ProveLog(*former, kTrained), *ProveLog(*now, kLonger), *now);
  }
  absl::Status Changed(const std::function<void(RawData*)>& change) {
    RawData raw = Grown();
    change(&raw);
    return GrownTo(raw);
  }
  static void ExpectRefused(const absl::Status& status, const std::string& what) {
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr(what));
  }
  // A row of the first day that is trained on.
  static size_t OldRow(const RawData& raw) {
    const auto row = std::ranges::find_if(
        raw.impressions, [](const auto& r) { return r.time / kDay == kTrained.from / kDay; });
    return static_cast<size_t>(row - raw.impressions.begin());
  }
  static inline const std::string kFirstDay = "2022-01-09";

  const Folder folder_;
  int logs_ = 0;
};

TEST_F(LogProofTest, DaysAndItemsAndUsersMayBeNew) {
  EXPECT_TRUE(GrownTo(Former()).ok());
  EXPECT_TRUE(GrownTo(Grown()).ok());
  const absl::Status status = Changed([](RawData* raw) {
    // All numbers move; strings and kinds get other codes.
    raw->items.push_back(Item(-5, "brand 9"));
    raw->vectors.push_back({.id = -5, .text = {{9.0f, 9.0f, 9.0f}}});
    raw->behaviours.push_back({.user = -3, .item = -5, .time = kLonger.until, .kind = "aaa"});
    for (int i = 0; i < 500; ++i) {
      raw->impressions.push_back({.request = 90'000 + i,
                                  .user = -3,
                                  .item = -5,
                                  .time = kTrained.until + i,
                                  .channel = "new"});
    }
  });
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(LogProofTest, FactsOfItemsAndWhatLiesOutsideOfTheTrainedDaysMayChange) {
  const absl::Status status = Changed([](RawData* raw) {
    raw->items[3].price = 1234;
    raw->items[4].brand = "another";
    for (auto& row : raw->impressions) {
      if (row.time < kTrained.from || row.time >= kTrained.until) row.click = 1 - row.click;
      if (row.click == 0) row.conversion = 0;
    }
  });
  // Of a day before training only behaviours matter.
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(LogProofTest, AChangedCellOfATrainedDayIsNamed) {
  const RawData raw = Grown();
  const size_t row = OldRow(raw);
  ExpectRefused(Changed([&](RawData* r) {
                  auto& cell = r->impressions[row];
                  cell.click = 1 - cell.click;
                  cell.conversion = 0;
                }),
                kFirstDay + ": 'click' has other values");
  ExpectRefused(Changed([&](RawData* r) { r->impressions[row].weight += 1; }),
                kFirstDay + ": 'weight'");
  ExpectRefused(Changed([&](RawData* r) { r->impressions[row].channel = "other"; }),
                kFirstDay + ": 'ctx_channel'");
  ExpectRefused(Changed([&](RawData* r) { r->impressions[row].hour += 0.5f; }),
                kFirstDay + ": 'num_hour'");
  ExpectRefused(Changed([&](RawData* r) {
                  auto& item = r->impressions[row].item;
                  item = item == r->items[7].id ? r->items[8].id : r->items[7].id;
                }),
                kFirstDay + ": 'item_id'");
}

TEST_F(LogProofTest, AnotherPastIsNamed) {
  const RawData raw = Grown();
  // The same number of behaviours, one of another kind, from before the trained days; of a user
  // who was trained on.
  const auto old = std::ranges::find_if(raw.behaviours, [&](const auto& b) {
    return b.time < kTrained.from - kDay / 2 &&
           std::ranges::any_of(raw.impressions, [&](const auto& r) {
             return r.user == b.user && r.time / kDay == kTrained.from / kDay;
           });
  });
  ASSERT_NE(old, raw.behaviours.end());
  const auto at = static_cast<size_t>(old - raw.behaviours.begin());
  ExpectRefused(Changed([&](RawData* r) { r->behaviours[at].kind = "other"; }), "'history'");
  ExpectRefused(Changed([&](RawData* r) { r->behaviours.erase(r->behaviours.begin() + at); }),
                "'history'");
  ExpectRefused(Changed([&](RawData* r) {
                  // Of somebody whom nothing is shown to.
                  for (int i = 0; i < 3; ++i) {
                    r->behaviours.push_back({.user = 1, .item = r->items[2].id, .time = kStart});
                    r->behaviours.push_back({.user = 1, .item = r->items[3].id, .time = kStart});
                  }
                }),
                "'prior_count'");
}

TEST_F(LogProofTest, DaysThatComeOrGoAreNamed) {
  ExpectRefused(Changed([](RawData* r) {
                  std::erase_if(r->impressions, [](const auto& row) {
                    return row.time / kDay == kTrained.from / kDay;
                  });
                }),
                kFirstDay + ": its ");
  ExpectRefused(Changed([](RawData* r) {
                  auto row = r->impressions[OldRow(*r)];
                  row.request = 77'777;
                  r->impressions.push_back(row);
                }),
                kFirstDay + ": has ");
  // A day that had none.
  RawData former = Former();
  std::erase_if(former.impressions,
                [](const auto& row) { return row.time / kDay == kTrained.from / kDay + 1; });
  const auto before = Open(former);
  const auto now = Open(Grown());
  ExpectRefused(CheckGrown(*ProveLog(*before, kTrained), *ProveLog(*now, kLonger), *now),
                "2022-01-10: has ");
}

TEST_F(LogProofTest, ItemsThatAreGoneOrHaveOtherVectorsAreNamed) {
  const RawData raw = Grown();
  const int64_t id = raw.vectors[4].id;
  ExpectRefused(Changed([](RawData* r) {
                  r->vectors[4].text = {{5.0f, 1.0f, 0.25f}};
                }),
                "item " + std::to_string(id) + " has another vector");
  ExpectRefused(Changed([](RawData* r) { r->vectors.erase(r->vectors.begin() + 4); }),
                "item " + std::to_string(id) + " has no vector any more");
  ExpectRefused(Changed([&](RawData* r) {
                  r->items.push_back(Item(-2));
                  r->vectors.push_back({.id = -2, .text = r->vectors[4].text});
                }),
                "item -2, whose vector is new, has a smaller id than item ");
  // With a larger id it is welcome; so is a vector for an item that had none.
  EXPECT_TRUE(Changed([&](RawData* r) {
                r->items.push_back(Item(2'000'000));
                r->vectors.push_back({.id = 2'000'000, .text = r->vectors[4].text});
                r->vectors.push_back({.id = r->items[0].id, .text = {{8.0f, 8.0f, 8.0f}}});
              }).ok());
  // An item that nothing mentions.
  RawData former = Former();
  former.items.push_back(Item(3));
  const auto before = Open(former);
  const auto now = Open(Grown());
  ExpectRefused(CheckGrown(*ProveLog(*before, kTrained), *ProveLog(*now, kLonger), *now),
                "item 3 is gone");
}

TEST_F(LogProofTest, AnotherSchemaIsNamed) {
  const auto former = Open(Former());
  auto tables = Grown().Tables();
  tables["items"].Set("feat_colour", testing::Texts(std::vector<std::optional<std::string>>(
                                         Grown().items.size(), "red")));
  WriteTables(tables, folder_ / "other-raw");
  ASSERT_TRUE(
      Prepare({.raw = folder_ / "other-raw", .out = folder_ / "other", .memory_bytes = 1 << 20})
          .ok());
  const auto now = *TrainingLog::Open(folder_ / "other");
  const absl::Status status =
      CheckGrown(*ProveLog(*former, kTrained), *ProveLog(*now, kLonger), *now);
  ExpectRefused(status, "categorical features of items");
  EXPECT_THAT(status.message(), AllOf(HasSubstr("feat_colour"), HasSubstr("feat_brand")));
}

TEST_F(LogProofTest, NewContentsAreThoseWhoseFirstItemHadNone) {
  const auto former = Open(Former());
  RawData raw = Grown();
  const int64_t bare = raw.items[0].id;  // had no vector
  raw.vectors.push_back({.id = bare, .text = {{8.0f, 8.0f, 8.0f}}});
  raw.items.push_back(Item(2));
  raw.vectors.push_back({.id = 2, .text = {{7.0f, 7.0f, 7.0f}}});
  raw.items.push_back(Item(3'000'000));  // an old content
  raw.vectors.push_back({.id = 3'000'000, .text = raw.vectors[4].text});
  const auto now = Open(raw);
  std::vector<int64_t> ids;
  for (const int32_t content : NewContents(*ProveLog(*former, kTrained), *now)) {
    const auto contents = now->item_contents();
    const auto first = std::ranges::find(contents, content) - contents.begin();
    ids.push_back(now->item_ids()[static_cast<size_t>(first)]);
  }
  EXPECT_THAT(ids, ::testing::UnorderedElementsAre(2, bare));
  EXPECT_TRUE(NewContents(*ProveLog(*now, kTrained), *now).empty());
}

TEST_F(LogProofTest, IsReadAsItWasWritten) {
  const auto log = Open(Former());
  const LogProof proof = *ProveLog(*log, kTrained);
  EXPECT_EQ(proof.days.size(), 3u);
  EXPECT_EQ(proof.items.size(), 30u);
  const std::string bytes = EncodeProof(proof);
  const auto read = DecodeProof("p", bytes);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(*read == proof);
  EXPECT_TRUE(absl::IsDataLoss(DecodeProof("p", "").status()));
  for (const size_t length : {size_t{4}, size_t{30}, bytes.size() - 16, bytes.size() - 1}) {
    const auto cut = DecodeProof("some/path", bytes.substr(0, length));
    EXPECT_TRUE(absl::IsDataLoss(cut.status())) << cut.status();
    EXPECT_THAT(cut.status().message(), HasSubstr("some/path"));
  }
}

}  // namespace
}  // namespace savior
