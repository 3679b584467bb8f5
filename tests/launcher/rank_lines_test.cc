// Lines of ranks out of mixed streams, cut anywhere.

#include "launcher/rank_lines.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace savior {
namespace {

using ::testing::ElementsAre;
using Lines = std::vector<std::string>;

Lines Split(Starter starter, const std::string& stream, size_t piece) {
  Lines lines;
  RankLines split(starter, [&lines](int rank, std::string_view line) {
    lines.push_back(std::to_string(rank) + " " + std::string(line));
  });
  for (size_t i = 0; i < stream.size(); i += piece) split.Add(stream.substr(i, piece));
  split.Finish();
  return lines;
}

TEST(RankLines, SameLinesHoweverTheStreamIsCut) {
  const std::string stream =
      "[1,0]<stdout>:one[1,12]<stdout>:first of twelve\n"
      "[1,12]<stdout>:second[1,0]<stdout>: and a half\n"
      "mpirun says this\n"
      "\n"
      "[1,3]<stderr>:\n"
      "[1,12]<stdout>: of twelve, [1,x]<stdout>: is no tag[1,2\n"
      "[1,7]<stdout>:never ended";
  for (size_t piece = 1; piece <= stream.size(); ++piece) {
    EXPECT_THAT(
        Split(Starter::kMpirun, stream, piece),
        ElementsAre("12 first of twelve", "0 one and a half", "-1 mpirun says this", "-1 ", "3 ",
                    "12 second of twelve, [1,x]<stdout>: is no tag[1,2", "7 never ended"))
        << "pieces of " << piece;
  }
}

TEST(RankLines, WhatIsOpenAtTheEndIsShown) {
  EXPECT_THAT(Split(Starter::kMpirun, "[1,0]<stdout>:a[1,1]<stdout>:b", 100),
              ElementsAre("1 b", "0 a"));
  EXPECT_THAT(Split(Starter::kMpirun, "", 1), ElementsAre());
}

TEST(RankLines, LabelsOfSrun) {
  EXPECT_THAT(
      Split(Starter::kSrun, " 3: three\n12: 12: twelve\nsrun: error: node1\n10 of 12\n0: \n", 5),
      ElementsAre("3 three", "12 12: twelve", "-1 srun: error: node1", "-1 10 of 12", "0 "));
}

TEST(RankLines, AnEndlessLineIsHandedOutInParts) {
  size_t lines = 0, bytes = 0, longest = 0;
  RankLines split(Starter::kMpirun, [&](int, std::string_view line) {
    ++lines;
    bytes += line.size();
    longest = std::max(longest, line.size());
  });
  split.Add("[1,0]<stdout>:");
  for (int i = 0; i < 1000; ++i) split.Add(std::string(1000, 'x'));
  split.Finish();
  EXPECT_EQ(bytes, 1'000'000);
  EXPECT_GT(lines, 5);
  EXPECT_LT(longest, 200'000);
}

}  // namespace
}  // namespace savior
