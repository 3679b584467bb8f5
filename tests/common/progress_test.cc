#include "common/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace savior {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Under CTest stderr is no terminal: plain lines.
TEST(Progress, PrintsOneLineAtTheEndOfShortWork) {
  testing::internal::CaptureStderr();
  {
    Progress progress("training", 200, "requests");
    for (int i = 0; i <= 200; ++i) progress.Update(i, "loss 0.5");
    progress.Finish("loss 0.4");
    progress.Finish("twice");
  }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, HasSubstr("training 100% 200/200 requests"));
  EXPECT_THAT(text, HasSubstr("loss 0.4\n"));
  EXPECT_THAT(text, Not(HasSubstr("loss 0.5")));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
}

TEST(Progress, PrintsLinesNowAndThenDuringLongWork) {
  testing::internal::CaptureStderr();
  {
    Progress progress("reading", 4, "files", absl::ZeroDuration());
    for (int i = 0; i < 4; ++i) progress.Update(i);
  }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 5);
  EXPECT_THAT(text, HasSubstr(" 50% 2/4 files"));
}

TEST(Progress, UnknownTotalShowsNoPercentage) {
  testing::internal::CaptureStderr();
  { Progress("scanning", 0, "rows").Update(7); }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, HasSubstr("scanning 7 rows"));
  EXPECT_THAT(text, Not(HasSubstr("%")));
}

}  // namespace
}  // namespace savior
