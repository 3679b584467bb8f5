#include "launcher/json_lines.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "common/files.h"
#include "tests/common/temp_folder.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class JsonLinesTest : public ::testing::Test {
 protected:
  void Write(const std::string& text) const { std::ofstream(file_, std::ios::binary) << text; }
  const TempFolder folder_;
  const fs::path file_ = folder_ / "lines.jsonl";
};

TEST_F(JsonLinesTest, WhatIsAddedIsRead) {
  {
    JsonLines lines(file_);
    ASSERT_TRUE(lines.Add({{"a", 1}}).ok());
    ASSERT_TRUE(lines.Add({{"b", "x\ny"}}).ok());
  }
  JsonLines again(file_);
  ASSERT_TRUE(again.Add({{"c", 3}}).ok());
  const auto read = ReadJsonLines(file_);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->size(), 3u);
  EXPECT_EQ((*read)[1].at("b"), "x\ny");
  EXPECT_EQ((*read)[2].at("c"), 3);
}

TEST_F(JsonLinesTest, AMissingOrEmptyFileHasNoLines) {
  EXPECT_TRUE(ReadJsonLines(file_).value().empty());
  Write("");
  EXPECT_TRUE(ReadJsonLines(file_).value().empty());
}

TEST_F(JsonLinesTest, ATornLastLineIsNoDamage) {
  Write("{\"a\": 1}\n{\"b\": 2");
  EXPECT_EQ(ReadJsonLines(file_).value().size(), 1u);
}

// Whoever writes on would make one damaged line of it and of the next.
TEST_F(JsonLinesTest, ATornLastLineIsTakenAwayBeforeTheNext) {
  const std::string torn(200'000, 'x');  // more than is looked at at once
  for (const std::string& before : {std::string(), std::string("{\"a\": 1}\n")}) {
    Write(before + "{\"b\": \"" + torn);
    {
      JsonLines lines(file_);
      ASSERT_TRUE(lines.Add({{"c", 3}}).ok());
    }
    EXPECT_EQ(*ReadFile(file_), before + "{\"c\":3}\n");
  }
}

TEST_F(JsonLinesTest, DamageIsNamed) {
  for (const char* damaged :
       {"{\"a\": 1}\n{\"b\"\n{\"c\": 3}\n", "{\"a\": 1}\n\n{}\n", "{\"a\": 1}\n[2]\n"}) {
    Write(damaged);
    const auto read = ReadJsonLines(file_);
    EXPECT_TRUE(absl::IsDataLoss(read.status())) << read.status();
    EXPECT_THAT(std::string(read.status().message()),
                AllOf(HasSubstr(file_.string()), HasSubstr("line 2")));
  }
}

}  // namespace
}  // namespace savior
