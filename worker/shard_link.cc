#include "worker/shard_link.h"

#include <absl/strings/str_cat.h>
#include <glog/logging.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "common/message.h"
#include "common/sequence.h"

namespace savior {
namespace {

// A connection that comes up wakes its waiter; this is for the waiter that missed it.
constexpr std::chrono::milliseconds kRetryUnsent{50};
constexpr uint32_t kMostDoublings = 3;

}  // namespace

ShardLink::ShardLink(uint32_t shard, std::unique_ptr<DealerSocket> socket, uint64_t max_in_flight,
                     SteadyClock::duration retry_after)
    : shard_(shard),
      socket_(std::move(socket)),
      fd_(socket_->fd()),
      max_in_flight_(max_in_flight),
      retry_after_(retry_after) {
  CHECK(max_in_flight >= 1 && max_in_flight <= kSequenceWindow);
}

bool ShardLink::HasRoom() const {
  return unanswered_.empty() || next_sequence_ - unanswered_.front().sequence < max_in_flight_;
}

void ShardLink::Send(Frame frame, RemoteCall* call, size_t message) {
  CHECK(HasRoom());
  unanswered_.push_back({.sequence = next_sequence_++,
                         .call = call,
                         .message = message,
                         .frame = std::move(frame),
                         .due = {},
                         .sent = 0});
  TrySend(&unanswered_.back(), SteadyClock::now());
}

bool ShardLink::SendOnce(Frame frame) {
  const size_t size = frame.bytes().size();
  if (!socket_->Send(std::move(frame))) return false;
  bytes_sent_ += size;
  return true;
}

void ShardLink::TrySend(Request* request, Deadline now) {
  if (!SendOnce(request->frame.Share())) {
    request->due = now + kRetryUnsent;
    return;
  }
  // Ever longer: a shard that is slow gets no faster by doing everything twice.
  request->due = now + retry_after_ * (1 << std::min<uint32_t>(request->sent, kMostDoublings));
  ++request->sent;
}

bool ShardLink::Receive(Request* answered, Frame* reply) {
  while (socket_->Receive(reply)) {
    bytes_received_ += reply->bytes().size();
    MessageHeader header;
    if (!PeekHeader(std::as_const(*reply).bytes(), &header) || IsRequest(header.type)) {
      LOG_EVERY_N(WARNING, 1000) << Name() << " sent something that is not a reply: dropped";
      continue;
    }
    // Usually the first. One that is not there has been answered before, or was given up.
    const auto found = std::find_if(unanswered_.begin(), unanswered_.end(), [&](const Request& r) {
      return r.sequence == header.sequence;
    });
    if (found == unanswered_.end()) continue;
    *answered = std::move(*found);
    unanswered_.erase(found);
    return true;
  }
  return false;
}

void ShardLink::AskAgain(Request answered, Deadline due) {
  answered.due = due;
  const auto place = std::find_if(unanswered_.begin(), unanswered_.end(),
                                  [&](const Request& r) { return r.sequence > answered.sequence; });
  unanswered_.insert(place, std::move(answered));
}

Deadline ShardLink::Repeat(Deadline now) {
  Deadline next = Deadline::max();
  for (Request& request : unanswered_) {
    // What could not be sent is tried at every look.
    if (request.sent == 0 || request.due <= now) TrySend(&request, now);
    next = std::min(next, request.due);
  }
  return next;
}

void ShardLink::Forget(const RemoteCall* call) {
  std::erase_if(unanswered_, [&](const Request& request) { return request.call == call; });
}

std::string ShardLink::Name() const {
  return absl::StrCat("shard ", shard_, " at ", socket_->endpoint());
}

std::string ShardLink::DescribeUnanswered(const RemoteCall* call) const {
  for (const Request& request : unanswered_) {
    if (request.call != call) continue;
    return request.sent == 0
               ? absl::StrCat("no connection to ", Name())
               : absl::StrCat("no answer from ", Name(), " (sent ", request.sent, " times)");
  }
  return "";
}

}  // namespace savior
