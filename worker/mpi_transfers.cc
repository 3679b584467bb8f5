#include "worker/mpi_transfers.h"

#include <absl/strings/str_cat.h>
#include <mpi.h>

#include <algorithm>
#include <thread>
#include <utility>

namespace savior {
namespace {

absl::Status MpiError(int code, const char* what) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  int error_class = 0;
  MPI_Error_class(code, &error_class);
  const std::string message = absl::StrCat(what, ": ", text);
  if (error_class == MPI_ERR_TRUNCATE) return absl::FailedPreconditionError(message);
  return absl::UnavailableError(message);
}

// Owners of bytes that MPI may touch until the process ends. Never destroyed.
void KeepForever(std::shared_ptr<const void> owner) {
  static std::mutex mutex;
  static auto* const kept = new std::vector<std::shared_ptr<const void>>;
  const std::lock_guard lock(mutex);
  kept->push_back(std::move(owner));
}

}  // namespace

struct MpiTransfers::Requests {
  std::vector<MPI_Request> all;  // MPI_REQUEST_NULL: ended
  std::vector<int> ended;        // scratch of Poll
  std::vector<MPI_Status> statuses;
};

MpiTransfers::MpiTransfers(MpiWorld* world, size_t piece_bytes)
    : world_(world), piece_bytes_(piece_bytes), requests_(std::make_unique<Requests>()) {}

MpiTransfers::~MpiTransfers() {
  for (size_t i = 0; i < transfers_.size(); ++i) {
    if (requests_->all[i] != MPI_REQUEST_NULL) KeepForever(std::move(transfers_[i].owner));
  }
}

void MpiTransfers::Send(uint32_t peer, int tag, std::span<const std::byte> bytes,
                        std::shared_ptr<const void> owner) {
  Start(peer, tag, const_cast<std::byte*>(bytes.data()), bytes.size(), false, std::move(owner));
}

void MpiTransfers::Receive(uint32_t peer, int tag, std::span<std::byte> bytes,
                           std::shared_ptr<const void> owner) {
  Start(peer, tag, bytes.data(), bytes.size(), true, std::move(owner));
}

void MpiTransfers::Start(uint32_t peer, int tag, std::byte* bytes, size_t size, bool receives,
                         std::shared_ptr<const void> owner) {
  const std::lock_guard lock(world_->mutex());
  size_t begin = 0;
  do {
    const size_t piece = std::min(size - begin, piece_bytes_);
    const int count = static_cast<int>(piece), to = static_cast<int>(peer);
    MPI_Request request = MPI_REQUEST_NULL;
    const int code =
        receives ? MPI_Irecv(bytes + begin, count, MPI_BYTE, to, tag, MPI_COMM_WORLD, &request)
                 : MPI_Isend(bytes + begin, count, MPI_BYTE, to, tag, MPI_COMM_WORLD, &request);
    if (code != MPI_SUCCESS) {
      if (started_.ok()) started_ = MpiError(code, receives ? "receiving" : "sending");
      return;
    }
    requests_->all.push_back(request);
    transfers_.push_back({peer, receives, piece, owner});
    ++under_way_;
    begin += piece;
  } while (begin < size);
}

absl::StatusOr<bool> MpiTransfers::Poll() {
  SAVIOR_RETURN_IF_ERROR(started_);
  if (under_way_ == 0) return false;
  Requests& r = *requests_;
  r.ended.resize(r.all.size());
  r.statuses.resize(r.all.size());
  int count = 0;
  {
    const std::lock_guard lock(world_->mutex());
    const int code = MPI_Testsome(static_cast<int>(r.all.size()), r.all.data(), &count,
                                  r.ended.data(), r.statuses.data());
    if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) return MpiError(code, "waiting");
    for (int i = 0; i < count; ++i) {
      const MPI_Status& status = r.statuses[static_cast<size_t>(i)];
      Transfer& transfer = transfers_[static_cast<size_t>(r.ended[static_cast<size_t>(i)])];
      if (code == MPI_ERR_IN_STATUS && status.MPI_ERROR != MPI_SUCCESS) {
        return Annotate(MpiError(status.MPI_ERROR, "message"),
                        absl::StrCat("rank ", transfer.peer));
      }
      int bytes = 0;
      if (transfer.receives) MPI_Get_count(&status, MPI_BYTE, &bytes);
      if (transfer.receives && static_cast<size_t>(bytes) != transfer.size) {
        return absl::FailedPreconditionError(absl::StrCat("rank ", transfer.peer, " sent ", bytes,
                                                          " bytes, expected ", transfer.size));
      }
      transfer.owner.reset();
    }
  }
  under_way_ -= static_cast<size_t>(count);
  if (under_way_ == 0) {
    r.all.clear();
    transfers_.clear();
  }
  return count > 0;
}

std::vector<uint32_t> MpiTransfers::MissingPeers() const {
  std::vector<uint32_t> peers;
  for (const bool receives : {true, false}) {
    for (size_t i = 0; i < transfers_.size(); ++i) {
      if (requests_->all[i] != MPI_REQUEST_NULL && transfers_[i].receives == receives) {
        peers.push_back(transfers_[i].peer);
      }
    }
    if (!peers.empty()) break;
  }
  std::ranges::sort(peers);
  peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
  return peers;
}

void MakeMpiProgress(MpiWorld& world) {
  const std::lock_guard lock(world.mutex());
  int found = 0;
  MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &found, MPI_STATUS_IGNORE);
}

void BackOff::Wait(Deadline deadline) {
  std::this_thread::sleep_until(std::min<Deadline>(SteadyClock::now() + next_, deadline));
  next_ = std::min(2 * next_, most_);
}

std::string NamesOf(const std::vector<uint32_t>& numbers) {
  std::string names;
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (i > 0) names += i + 1 == numbers.size() ? " and " : ", ";
    absl::StrAppend(&names, numbers[i]);
  }
  return names;
}

}  // namespace savior
