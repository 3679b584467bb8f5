#include "common/at_once.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <string>
#include <vector>

namespace savior {
namespace {

absl::Status Failed(size_t i) { return absl::DataLossError(std::to_string(i)); }

TEST(AtOnce, RunsAllAtTheSameTime) {
  for (const size_t n : {0, 1, 2, 7}) {
    std::latch all(static_cast<std::ptrdiff_t>(n));
    std::vector<int> calls(n);
    EXPECT_TRUE(AtOnce(n, [&](size_t i) {
                  all.arrive_and_wait();
                  ++calls[i];
                  return absl::OkStatus();
                }).ok());
    EXPECT_EQ(calls, std::vector<int>(n, 1));
  }
}

TEST(AtOnce, TheFirstErrorByNumberIsReturnedWhenAllHaveEnded) {
  std::latch failed(2);
  std::atomic<int> ended = 0;
  const absl::Status status = AtOnce(4, [&](size_t i) {
    if (i % 2 == 1) failed.count_down();
    failed.wait();
    ++ended;
    return i % 2 == 1 ? Failed(i) : absl::OkStatus();
  });
  EXPECT_EQ(status, Failed(1));
  EXPECT_EQ(ended, 4);
}

TEST(ShareOut, EveryPieceIsDoneOnce) {
  for (const size_t n : {0, 1, 5, 100}) {
    for (const size_t threads : {0, 1, 3, 200}) {
      std::vector<std::atomic<int>> calls(n);
      EXPECT_TRUE(ShareOut(n, threads, [&](size_t i) {
                    ++calls[i];
                    return absl::OkStatus();
                  }).ok());
      for (const std::atomic<int>& of_piece : calls) EXPECT_EQ(of_piece, 1);
    }
  }
}

TEST(ShareOut, NothingIsBegunAfterAnError) {
  std::atomic<size_t> begun = 0;
  const absl::Status status = ShareOut(1000, 3, [&](size_t i) {
    ++begun;
    return i == 5 ? Failed(i) : absl::OkStatus();
  });
  EXPECT_EQ(status, Failed(5));
  EXPECT_EQ(ShareOut(10, 1, [](size_t i) { return i < 3 ? absl::OkStatus() : Failed(i); }),
            Failed(3));
}

}  // namespace
}  // namespace savior
