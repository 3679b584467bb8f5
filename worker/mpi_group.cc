#include "worker/mpi_group.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>
#include <utility>

#include "worker/mpi_transfers.h"

namespace savior {
namespace {

constexpr std::chrono::microseconds kLongestSleep{1000};
// A size beyond it is none: somebody speaks of something else.
constexpr uint64_t kLongestGift = uint64_t{1} << 40;

// One Allgather or Alltoall under way. Between two members go a size, then as many bytes, on one
// tag: they cannot change places.
class GiftExchange {
 public:
  // `mine`: one for each member, or one for all. `group` outlives this.
  GiftExchange(const MpiGroup& group, std::vector<std::string> mine);

  // Whether anything has moved.
  absl::StatusOr<bool> Poll();
  bool done() const { return open_ == 0 && sends_.done(); }
  // Ranks in the world from which not everything has come, or that do not take what is theirs.
  std::vector<uint32_t> Missing() const;
  // When done.
  std::vector<std::string> Take() { return std::move(buffers_->gifts); }

 private:
  // Kept by the messages.
  struct Buffers {
    std::vector<std::string> mine;
    std::vector<uint64_t> sizes_of_mine;
    std::vector<uint64_t> sizes;  // by rank
    std::vector<std::string> gifts;
  };
  struct Receipt {
    std::unique_ptr<MpiTransfers> transfers;
    bool has_size = false, done = false;
  };
  absl::StatusOr<bool> PollReceipt(uint32_t rank);

  const MpiGroup& group_;
  const std::shared_ptr<Buffers> buffers_ = std::make_shared<Buffers>();
  MpiTransfers sends_;
  std::vector<Receipt> receipts_;  // by rank
  size_t open_ = 0;                // receipts that are not done
};

GiftExchange::GiftExchange(const MpiGroup& group, std::vector<std::string> mine)
    : group_(group), sends_(&group.world(), group.piece_bytes()), receipts_(group.size()) {
  Buffers& b = *buffers_;
  b.mine = std::move(mine);
  for (const std::string& gift : b.mine) b.sizes_of_mine.push_back(gift.size());
  b.sizes.resize(group.size());
  b.gifts.resize(group.size());
  const auto of = [&](uint32_t rank) { return b.mine.size() == 1 ? 0 : rank; };
  b.gifts[group.rank()] = b.mine[of(group.rank())];
  for (uint32_t r = 0; r < group.size(); ++r) {
    if (r == group.rank()) continue;
    const uint32_t peer = group.members()[r];
    receipts_[r].transfers = std::make_unique<MpiTransfers>(&group.world(), group.piece_bytes());
    receipts_[r].transfers->Receive(peer, group.tag(0),
                                    std::as_writable_bytes(std::span(&b.sizes[r], 1)), buffers_);
    ++open_;
    sends_.Send(peer, group.tag(0), std::as_bytes(std::span(&b.sizes_of_mine[of(r)], 1)), buffers_);
    const std::string& gift = b.mine[of(r)];
    if (!gift.empty()) sends_.Send(peer, group.tag(0), std::as_bytes(std::span(gift)), buffers_);
  }
}

absl::StatusOr<bool> GiftExchange::Poll() {
  SAVIOR_ASSIGN_OR_RETURN(bool moved, sends_.Poll());
  for (uint32_t r = 0; r < receipts_.size(); ++r) {
    if (r == group_.rank() || receipts_[r].done) continue;
    SAVIOR_ASSIGN_OR_RETURN(const bool some, PollReceipt(r));
    moved |= some;
  }
  return moved;
}

absl::StatusOr<bool> GiftExchange::PollReceipt(uint32_t rank) {
  Receipt& receipt = receipts_[rank];
  SAVIOR_ASSIGN_OR_RETURN(const bool moved, receipt.transfers->Poll());
  if (!receipt.transfers->done()) return moved;
  const uint64_t size = buffers_->sizes[rank];
  if (receipt.has_size || size == 0) {
    receipt.done = true;
    --open_;
    return moved;
  }
  if (size >= kLongestGift) {
    return absl::DataLossError(absl::StrCat("rank ", rank, " announces ", size, " bytes"));
  }
  receipt.has_size = true;
  std::string& gift = buffers_->gifts[rank];
  gift.resize(size);
  receipt.transfers->Receive(group_.members()[rank], group_.tag(0),
                             std::as_writable_bytes(std::span(gift)), buffers_);
  return moved;
}

std::vector<uint32_t> GiftExchange::Missing() const {
  std::vector<uint32_t> missing;
  for (uint32_t r = 0; r < receipts_.size(); ++r) {
    if (r != group_.rank() && !receipts_[r].done) missing.push_back(group_.members()[r]);
  }
  return missing.empty() ? sends_.MissingPeers() : missing;
}

}  // namespace

std::unique_ptr<MpiGroup> MpiGroup::World(MpiWorld* world) {
  std::vector<uint32_t> members(world->size());
  std::iota(members.begin(), members.end(), 0u);
  return std::unique_ptr<MpiGroup>(new MpiGroup(world, 0, std::move(members)));
}

MpiGroup::MpiGroup(MpiWorld* world, uint32_t context, std::vector<uint32_t> members)
    : world_(world), context_(context), members_(std::move(members)) {
  rank_ = static_cast<uint32_t>(std::ranges::find(members_, world->rank()) - members_.begin());
}

absl::StatusOr<std::unique_ptr<MpiGroup>> MpiGroup::Split(uint32_t color, uint32_t key,
                                                          Deadline deadline) {
  // Members may have made different numbers of groups so far: a number that is free everywhere is
  // the largest of their next ones. Groups of one Split share it: they have no member in common.
  const uint32_t mine[] = {color, key, world_->next_context()};
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          Allgather({reinterpret_cast<const char*>(mine), sizeof mine}, deadline));
  uint32_t context = 0;
  std::vector<std::pair<uint32_t, uint32_t>> chosen;  // (key, rank)
  for (uint32_t r = 0; r < all.size(); ++r) {
    uint32_t theirs[3] = {};
    if (all[r].size() != sizeof theirs) {
      return absl::FailedPreconditionError(
          absl::StrCat("rank ", r, " does something else than splitting the group"));
    }
    std::memcpy(theirs, all[r].data(), sizeof theirs);
    context = std::max(context, theirs[2]);
    if (theirs[0] == color) chosen.emplace_back(theirs[1], r);
  }
  world_->set_next_context(context + 1);
  std::ranges::sort(chosen);
  std::vector<uint32_t> members;
  members.reserve(chosen.size());
  for (const auto& [unused, r] : chosen) members.push_back(members_[r]);
  return std::unique_ptr<MpiGroup>(new MpiGroup(world_, context, std::move(members)));
}

absl::StatusOr<std::unique_ptr<Group>> MpiGroup::Fork(const std::atomic<bool>* give_up,
                                                      Deadline deadline) {
  SAVIOR_ASSIGN_OR_RETURN(std::unique_ptr<MpiGroup> group, Split(0, rank_, deadline));
  group->give_up_ = give_up;
  return group;
}

std::string MpiGroup::Describe(const std::vector<uint32_t>& world_ranks) const {
  std::vector<uint32_t> own;
  own.reserve(world_ranks.size());
  for (const uint32_t w : world_ranks) {
    own.push_back(static_cast<uint32_t>(std::ranges::find(members_, w) - members_.begin()));
  }
  std::ranges::sort(own);
  if (own == world_ranks) return NamesOf(own);
  return absl::StrCat(NamesOf(own), " (", NamesOf(world_ranks), " of the job)");
}

absl::StatusOr<std::vector<std::string>> MpiGroup::Allgather(std::string_view mine,
                                                             Deadline deadline) {
  return Exchange({std::string(mine)}, deadline);
}

absl::StatusOr<std::vector<std::string>> MpiGroup::Alltoall(std::vector<std::string> mine,
                                                            Deadline deadline) {
  if (mine.size() != size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(mine.size(), " gifts for a group of ", size(), " processes"));
  }
  return Exchange(std::move(mine), deadline);
}

absl::StatusOr<std::vector<std::string>> MpiGroup::Exchange(std::vector<std::string> mine,
                                                            Deadline deadline) {
  SAVIOR_RETURN_IF_ERROR(failed_);
  for (const std::string& gift : mine) {
    if (gift.size() >= kLongestGift) {
      return absl::InvalidArgumentError(absl::StrCat(gift.size(), " bytes, must be below 1 TiB"));
    }
  }
  GiftExchange exchange(*this, std::move(mine));
  BackOff back_off(kLongestSleep);
  while (!exchange.done()) {
    const absl::StatusOr<bool> moved = exchange.Poll();
    if (!moved.ok()) return failed_ = moved.status();
    if (*moved) {
      back_off.Reset();
    } else if (give_up_ != nullptr && give_up_->load()) {
      return failed_ = absl::CancelledError("given up");
    } else if (SteadyClock::now() >= deadline) {
      return failed_ = absl::DeadlineExceededError(absl::StrCat(
                 "waiting for all ", size(), " processes of a group: nothing from rank ",
                 Describe(exchange.Missing())));
    } else {
      back_off.Wait(deadline);
    }
  }
  return exchange.Take();
}

}  // namespace savior
