#include "launcher/cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "common/routing.h"

namespace savior {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<RankCard> Cards(const std::vector<std::string>& hosts, const Config& config = {}) {
  std::vector<RankCard> cards;
  for (const std::string& host : hosts) {
    cards.push_back({.host = host,
                     .pid = 100,
                     .role = "",
                     .version = "savior 1",
                     .program = "abc",
                     .config = ToToml(config),
                     .public_key = "key",
                     .incarnation = 5,
                     .gpus = {"01:00.0", "02:00.0"},
                     .no_gpu = ""});
  }
  return cards;
}

std::string Roles(const Config& config, const std::vector<RankCard>& cards) {
  const auto placement = Place(config, cards);
  if (!placement.ok()) return std::string(placement.status().message());
  std::string roles;
  for (const Role role : placement->roles) roles += NameOf(role)[0];
  return roles;
}

TEST(Cluster, CardsSurviveTheWire) {
  const RankCard card = Cards({"node1"})[0];
  const auto again = RankCard::Decode(card.Encode());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->Encode(), card.Encode());
  for (const char* bytes : {"", "{}", "[1]", "{\"host\": 3}"}) {
    EXPECT_TRUE(absl::IsDataLoss(RankCard::Decode(bytes).status())) << bytes;
  }
}

TEST(Cluster, DifferencesNameTheFieldAndTheTwoRanks) {
  std::vector<RankCard> cards = Cards({"a", "a", "b"});
  EXPECT_TRUE(CheckCards(cards).ok());
  Config other;
  other.model.id_dim = 64;
  cards[2].config = ToToml(other);
  const absl::Status config = CheckCards(cards);
  EXPECT_TRUE(absl::IsInvalidArgument(config));
  EXPECT_THAT(config.message(),
              AllOf(HasSubstr("rank 0 on a and rank 2 on b"), HasSubstr("model.id_dim (32 | 64)")));
  cards = Cards({"a", "b"});
  cards[1].program = "xyz";
  EXPECT_THAT(CheckCards(cards).message(), HasSubstr("program's file"));
  cards = Cards({"a", "b"});
  cards[1].version = "savior 2";
  EXPECT_THAT(CheckCards(cards).message(), HasSubstr("savior 1 | savior 2"));
}

TEST(Cluster, ByDefaultTheFirstProcessOfANodeIsItsServer) {
  EXPECT_EQ(Roles({}, Cards({"a"})), "b");
  EXPECT_EQ(Roles({}, Cards({"a", "a"})), "sw");
  EXPECT_EQ(Roles({}, Cards({"a", "a", "a", "a"})), "swww");
  EXPECT_EQ(Roles({}, Cards({"a", "b", "c"})), "bbb");
  EXPECT_EQ(Roles({}, Cards({"a", "a", "b", "b", "b"})), "swsww");
  EXPECT_EQ(Roles({}, Cards({"a", "b", "a", "b"})), "ssww");
}

TEST(Cluster, RolesPerNode) {
  Config config;
  config.cluster.servers_per_node = 2;
  EXPECT_EQ(Roles(config, Cards({"a", "a", "a"})), "ssw");
  config.cluster.workers_per_node = 2;
  EXPECT_THAT(Roles(config, Cards({"a", "a", "a"})),
              AllOf(HasSubstr("a has 3 processes"), HasSubstr("servers_per_node = 2")));
  config.cluster.servers_per_node = 0;
  EXPECT_EQ(Roles(config, Cards({"a", "a", "a"})), "sww");
}

TEST(Cluster, TotalsAreSpreadOverTheNodes) {
  Config config;
  config.cluster.servers = 2;
  EXPECT_EQ(Roles(config, Cards({"a", "a", "b", "b"})), "swsw");
  EXPECT_EQ(Roles(config, Cards({"a", "a", "a"})), "ssw");
  config.cluster.workers = 3;
  EXPECT_THAT(Roles(config, Cards({"a", "a"})), HasSubstr("the run has 2 processes"));
  EXPECT_EQ(Roles(config, Cards({"a", "b", "c", "d", "e"})), "sswww");
  config.cluster.servers = 0;
  EXPECT_EQ(Roles(config, Cards({"a", "a", "b", "b"})), "swww");
}

TEST(Cluster, ARoleOnTheCommandLineWins) {
  std::vector<RankCard> cards = Cards({"a", "a", "b"});
  cards[0].role = "worker";
  cards[1].role = "server";
  cards[2].role = "both";
  EXPECT_EQ(Roles({}, cards), "wsb");
  cards[1].role = cards[2].role = "worker";
  EXPECT_THAT(Roles({}, cards), HasSubstr("0 servers and 3 workers"));
  cards[1].role = "boss";
  EXPECT_THAT(Roles({}, cards), HasSubstr("--role boss: must be server, worker or both"));
}

TEST(Cluster, ShardsAreDividedEvenlyAndEachServerHasOne) {
  for (const int64_t shards : {1, 3, 5, 64}) {
    Config config;
    config.ps.shards = shards;
    config.cluster.servers = 3;
    const auto placement = Place(config, Cards({"a", "a", "b", "b"}));
    ASSERT_TRUE(placement.ok()) << placement.status();
    EXPECT_EQ(placement->shards, std::max<int64_t>(shards, 3));
    uint32_t next = 0;
    for (uint32_t s = 0; s < 3; ++s) {
      EXPECT_EQ(placement->FirstShard(s), next);
      EXPECT_GE(placement->ShardCount(s), placement->shards / 3);
      EXPECT_LE(placement->ShardCount(s), placement->shards / 3 + 1);
      next += placement->ShardCount(s);
    }
    EXPECT_EQ(next, placement->shards);
  }
}

TEST(Cluster, MoreShardsThanBucketsAreRefused) {
  EXPECT_THAT(LoadConfig("", {"ps.shards=4097"}).status().message(), HasSubstr("4096"));
  Config config;
  config.cluster.servers = kBuckets + 1;
  const std::vector<std::string> hosts(kBuckets + 2, "a");
  EXPECT_THAT(Roles(config, Cards(hosts)), HasSubstr("at most 4096"));
}

// "cuda because", "cpu because ..." or the error.
std::string Device(const std::string& choice, const std::vector<RankCard>& cards) {
  const auto placement = Place({}, cards);
  if (!placement.ok()) return std::string(placement.status().message());
  const auto chosen = AgreeOnDevice(choice, *placement, cards);
  if (chosen.ok()) return chosen->device + " because " + chosen->why;
  EXPECT_TRUE(absl::IsInvalidArgument(chosen.status()));
  return std::string(chosen.status().message());
}

TEST(Cluster, AllWorkersComputeOnTheSameKindOfDevice) {
  // Servers are ranks 0 and 2.
  std::vector<RankCard> cards = Cards({"a", "a", "b", "b", "b"});
  EXPECT_EQ(Device("auto", cards), "cuda because ");
  EXPECT_EQ(Device("cuda", cards), "cuda because ");
  EXPECT_EQ(Device("cpu", cards), "cpu because ");
  const auto take = [&](size_t rank) {
    cards[rank].gpus.clear();
    cards[rank].no_gpu = "no driver";
  };
  take(2);
  EXPECT_EQ(Device("auto", cards), "cuda because ") << "a server needs none";
  EXPECT_EQ(Device("cuda", cards), "cuda because ");
  take(4);
  EXPECT_EQ(Device("auto", cards), "cpu because rank 4 (worker on b): no driver");
  EXPECT_EQ(Device("cuda", cards), "cluster.device = \"cuda\": rank 4 (worker on b): no driver");
  EXPECT_EQ(Device("cpu", cards), "cpu because ");
  take(1);
  take(3);
  EXPECT_EQ(Device("auto", cards), "cpu because ") << "nothing is given up";
  EXPECT_THAT(Device("cuda", cards), HasSubstr("rank 1 (worker on a)"));
  // The same from what went over the wire.
  for (RankCard& card : cards) card = RankCard::Decode(card.Encode()).value();
  EXPECT_THAT(Device("cuda", cards), HasSubstr("rank 1 (worker on a): no driver"));
}

TEST(Cluster, NoTwoWorkersShareAGpu) {
  // Servers are ranks 0 and 2; workers 3 and 4 are of one host.
  std::vector<RankCard> cards = Cards({"a", "a", "b", "b", "b"});
  cards[4].gpus.pop_back();
  const std::string shared =
      "rank 3 (worker on b) and rank 4 (worker on b) would share GPU 01:00.0, and NCCL takes one "
      "worker per GPU: lower cluster.workers_per_node or cluster.workers, or set cluster.device = "
      "\"cpu\"";
  EXPECT_EQ(Device("cuda", cards), "cluster.device = \"cuda\": " + shared);
  EXPECT_EQ(Device("auto", cards), "cpu because " + shared);
  EXPECT_EQ(Device("cpu", cards), "cpu because ");
  // As Slurm binds them: each sees one, and not the same.
  cards[3].gpus = {"02:00.0"};
  EXPECT_EQ(Device("cuda", cards), "cuda because ");
  // The same address on another host is another GPU, and a server uses none.
  cards[1].gpus = cards[2].gpus = {"02:00.0"};
  EXPECT_EQ(Device("cuda", cards), "cuda because ");
}

TEST(Cluster, SaysWhatItIs) {
  const auto placement = Place({}, Cards({"a", "a", "b"}));
  ASSERT_TRUE(placement.ok());
  EXPECT_EQ(placement->Describe(), "2 servers with 2 shards, 2 workers on 2 hosts");
  EXPECT_EQ(placement->NameOfRank(1), "rank 1 (worker on a)");
  EXPECT_EQ(placement->NameOfRank(2), "rank 2 (server and worker on b)");
  EXPECT_THAT(placement->workers, ElementsAre(1, 2));
  EXPECT_FALSE(placement->one_host());
}

}  // namespace
}  // namespace savior
