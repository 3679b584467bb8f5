// A client's connection to one shard, and what it has asked there and not been told yet.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "common/clock.h"
#include "common/transport.h"

namespace savior {

struct RemoteCall;

// Single-threaded.
class ShardLink {
 public:
  // max_in_flight: 1 .. kSequenceWindow.
  ShardLink(uint32_t shard, std::unique_ptr<DealerSocket> socket, uint64_t max_in_flight,
            SteadyClock::duration retry_after);

  int fd() const { return fd_; }
  // Whether nothing is unanswered.
  bool idle() const { return unanswered_.empty(); }
  // Whether the oldest unanswered request is recent enough for another one to be sent.
  bool HasRoom() const;
  // The number of the next request.
  uint64_t next_sequence() const { return next_sequence_; }

  // Sends message number `message` of `call` as request next_sequence(), now or when there is a
  // connection, and again until it is answered or forgotten. There is room.
  void Send(Frame frame, RemoteCall* call, size_t message);
  // Sends once; false if that is not possible now.
  bool SendOnce(Frame frame);

  struct Request {
    uint64_t sequence = 0;
    RemoteCall* call = nullptr;
    size_t message = 0;
    Frame frame;
    Deadline due;       // to be sent again
    uint32_t sent = 0;  // times
  };
  // The next reply to something unanswered; that is answered then. Others are dropped. False: none
  // now.
  bool Receive(Request* answered, Frame* reply);
  // The reply was not the last word: asks again at `due`, under the same number.
  void AskAgain(Request answered, Deadline due);

  // Sends again what is due at `now`; returns when the next is due.
  Deadline Repeat(Deadline now);

  void Forget(const RemoteCall* call);

  // Handed to the socket, and taken from it.
  uint64_t bytes_sent() const { return bytes_sent_; }
  uint64_t bytes_received() const { return bytes_received_; }

  // "shard 1 at tcp://127.0.0.1:4000".
  std::string Name() const;
  // Name, and what has become of the oldest request of `call`; empty if all are answered.
  std::string DescribeUnanswered(const RemoteCall* call) const;

 private:
  void TrySend(Request* request, Deadline now);

  const uint32_t shard_;
  const std::unique_ptr<DealerSocket> socket_;
  const int fd_;
  const uint64_t max_in_flight_;
  const SteadyClock::duration retry_after_;
  uint64_t next_sequence_ = 1;
  uint64_t bytes_sent_ = 0, bytes_received_ = 0;
  std::deque<Request> unanswered_;  // sequences ascending
};

}  // namespace savior
