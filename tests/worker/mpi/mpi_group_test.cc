#include "worker/mpi_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "tests/worker/mpi/job.h"

namespace savior {
namespace {

using testing::OwnGroup;
using testing::Soon;
using testing::WorldGroup;

// What rank `r` gives in `round`: of different lengths, some empty, some beyond any eager limit.
std::string Gift(uint32_t r, uint32_t round) {
  const size_t sizes[] = {0, 1, 5, 300'000, 17, 0, 70'000};
  return std::string(sizes[(r + round) % 7], static_cast<char>('a' + r + round % 3));
}

TEST(MpiGroup, KnowsThatItWasLaunched) { EXPECT_TRUE(MpiWorld::LaunchedByMpi()); }

TEST(MpiGroup, GathersWhatEachGave) {
  MpiGroup& group = WorldGroup();
  for (uint32_t round = 0; round < 20; ++round) {
    const auto all = group.Allgather(Gift(group.rank(), round), Soon());
    ASSERT_TRUE(all.ok()) << all.status();
    ASSERT_EQ(all->size(), group.size());
    for (uint32_t r = 0; r < group.size(); ++r) EXPECT_TRUE((*all)[r] == Gift(r, round)) << r;
  }
}

TEST(MpiGroup, ExchangesWhatEachGaveToEach) {
  MpiGroup& group = WorldGroup();
  const auto gift = [](uint32_t from, uint32_t to, uint32_t round) {
    return Gift(3 * from + 5 * to, round);
  };
  for (uint32_t round = 0; round < 20; ++round) {
    std::vector<std::string> mine;
    for (uint32_t to = 0; to < group.size(); ++to) mine.push_back(gift(group.rank(), to, round));
    const auto got = group.Alltoall(std::move(mine), Soon());
    ASSERT_TRUE(got.ok()) << got.status();
    ASSERT_EQ(got->size(), group.size());
    for (uint32_t r = 0; r < group.size(); ++r) {
      EXPECT_TRUE((*got)[r] == gift(r, group.rank(), round)) << r;
    }
  }
  EXPECT_TRUE(absl::IsInvalidArgument(
      group.Alltoall(std::vector<std::string>(group.size() + 1), Soon()).status()));
}

// What is longer than MPI can count goes in pieces; here after a few bytes.
TEST(MpiGroup, LongGiftsGoInPieces) {
  const auto group = OwnGroup();
  for (const size_t piece : {size_t{1}, size_t{7}, size_t{4096}}) {
    group->set_piece_bytes(piece);
    for (uint32_t round = 0; round < 6; ++round) {
      // Of a piece less one, one piece, and one more, and several with and without a rest.
      const auto size = [&](uint32_t r) {
        const size_t sizes[] = {piece - 1, piece, piece + 1, 0, 5 * piece, 5 * piece + piece / 2};
        return sizes[(r + round) % 6];
      };
      const auto gift = [&](uint32_t r) {
        std::string bytes(size(r), '\0');
        for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 31 + r * 7);
        return bytes;
      };
      const auto all = group->Allgather(gift(group->rank()), Soon());
      ASSERT_TRUE(all.ok()) << all.status();
      for (uint32_t r = 0; r < group->size(); ++r) {
        EXPECT_TRUE((*all)[r] == gift(r)) << r << ", pieces of " << piece;
      }
    }
  }
}

TEST(MpiGroup, IsABarrier) {
  MpiGroup& group = WorldGroup();
  const auto start = SteadyClock::now();
  if (group.rank() == group.size() - 1) std::this_thread::sleep_for(std::chrono::milliseconds(300));
  ASSERT_TRUE(group.Allgather("", Soon()).ok());
  EXPECT_GE(SteadyClock::now() - start, std::chrono::milliseconds(250));
}

TEST(MpiGroup, SplitsByColorAndOrdersByKey) {
  MpiGroup& world = WorldGroup();
  // Odd and even ranks, backwards.
  const auto half = world.Split(world.rank() % 2, world.size() - world.rank(), Soon());
  ASSERT_TRUE(half.ok()) << half.status();
  const uint32_t members = (world.size() + 1 - world.rank() % 2) / 2;
  ASSERT_EQ((*half)->size(), members);
  EXPECT_EQ((*half)->rank(), members - 1 - world.rank() / 2);
  // Groups do not hear each other, not even with the same members and in another order of use.
  const auto again = (*half)->Split(0, (*half)->rank(), Soon());
  ASSERT_TRUE(again.ok()) << again.status();
  for (const MpiGroup* group : {half->get(), again->get(), &world}) {
    const auto all = const_cast<MpiGroup*>(group)->Allgather(std::to_string(world.rank()), Soon());
    ASSERT_TRUE(all.ok()) << all.status();
    for (uint32_t r = 0; r < group->size(); ++r) {
      EXPECT_EQ((*all)[r], std::to_string(group->members()[r]));
    }
  }
}

TEST(MpiGroup, ADeadlineNamesTheRanksThatAreMissing) {
  const auto group = OwnGroup();
  if (group->size() == 1) GTEST_SKIP() << "nobody can be missing";
  const bool absent =
      group->rank() == group->size() - 1 || (group->size() > 3 && group->rank() == 1);
  if (!absent) {
    const auto start = SteadyClock::now();
    const auto all = group->Allgather("x", DeadlineIn(std::chrono::milliseconds(400)));
    EXPECT_LT(SteadyClock::now() - start, std::chrono::milliseconds(2000));
    ASSERT_TRUE(absl::IsDeadlineExceeded(all.status())) << all.status();
    const std::string names = group->size() > 3 ? "rank 1 and " + std::to_string(group->size() - 1)
                                                : "rank " + std::to_string(group->size() - 1);
    EXPECT_THAT(std::string(all.status().message()), ::testing::EndsWith(names));
    // Of no use after it.
    EXPECT_TRUE(absl::IsDeadlineExceeded(group->Allgather("y", Soon()).status()));
  }
  testing::Barrier();  // others do not suffer
}

TEST(MpiGroup, NamesRanksOfTheJobWhereTheyDiffer) {
  MpiGroup& world = WorldGroup();
  if (world.size() < 3) GTEST_SKIP() << "needs three ranks";
  const auto workers = world.Split(world.rank() == 0 ? 0 : 1, world.rank(), Soon());
  ASSERT_TRUE(workers.ok()) << workers.status();
  if (world.rank() != 0 && world.rank() != 2) {
    const auto all = (*workers)->Allgather("x", DeadlineIn(std::chrono::milliseconds(200)));
    EXPECT_THAT(std::string(all.status().message()), ::testing::EndsWith("rank 1 (2 of the job)"));
  }
  testing::Barrier();
}

}  // namespace
}  // namespace savior
