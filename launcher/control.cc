#include "launcher/control.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

namespace savior {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;

constexpr milliseconds kTick{50};
constexpr milliseconds kFarewell{3000};

Frame FrameOf(Context* context, const std::string& text) {
  Frame frame = context->NewFrame(text.size());
  std::memcpy(frame.bytes().data(), text.data(), text.size());
  return frame;
}

std::string TextOf(const Frame& frame) {
  const auto bytes = frame.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Coordinator>> Coordinator::Start(Context* context,
                                                                const std::string& endpoint,
                                                                const SocketSecurity& security,
                                                                uint64_t run,
                                                                Membership membership) {
  absl::StatusOr<std::unique_ptr<RouterSocket>> socket =
      RouterSocket::Bind(context, endpoint, security);
  SAVIOR_RETURN_IF_ERROR(Annotate(socket.status(), "the coordinator"));
  return std::unique_ptr<Coordinator>(
      new Coordinator(*std::move(socket), context, run, std::move(membership)));
}

Coordinator::Coordinator(std::unique_ptr<RouterSocket> socket, Context* context, uint64_t run,
                         Membership membership)
    : socket_(std::move(socket)),
      context_(context),
      run_(run),
      membership_(std::move(membership)),
      thread_([this] { Run(); }) {}

Coordinator::~Coordinator() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    stop_by_ = DeadlineIn(kFarewell);
  }
  thread_.join();
}

bool Coordinator::Over() {
  const std::lock_guard lock(mutex_);
  return stopping_ && (membership_.over() || SteadyClock::now() >= stop_by_);
}

void Coordinator::Run() {
  bool said = false;
  while (!Over()) {
    ReceiveAll();
    const Verdict& verdict = membership_.Check(SteadyClock::now());
    if (verdict.state == RunState::kFailed && !std::exchange(said, true)) {
      LOG(ERROR) << kRunHasFailed << verdict.text;
    }
    const int fd = socket_->fd();
    WaitReadable({&fd, 1}, DeadlineIn(kTick));
  }
}

void Coordinator::ReceiveAll() {
  Frame peer;
  Frame message;
  while (socket_->Receive(&peer, &message)) {
    std::string reply;
    Hear(TextOf(message), &reply);
    // Who is gone says so again, or is found silent.
    if (!reply.empty()) socket_->Send(std::move(peer), FrameOf(context_, reply));
  }
}

void Coordinator::Hear(const std::string& bytes, std::string* reply) {
  const Json json = Json::parse(bytes, nullptr, /*allow_exceptions=*/false);
  try {
    if (json.at("run").get<uint64_t>() != run_) return;  // of a former one
    const auto rank = json.at("rank").get<uint32_t>();
    const std::string error = json.at("error");
    if (rank >= membership_.size()) return;
    membership_.Alive(rank, SteadyClock::now());
    if (json.at("stop").get<bool>()) membership_.AskToStop();
    if (json.at("finished").get<bool>()) membership_.Finished(rank);
    if (!error.empty()) membership_.Failed(rank, error, json.at("code"));
    const bool left = json.at("left");
    if (left) membership_.Left(rank);
    const Verdict& verdict = membership_.verdict();
    *reply = Json{
        {"run", run_},
        {"state", static_cast<int>(verdict.state)},
        {"text", verdict.text},
        {"code", verdict.exit_code},
        {"left",
         left}}.dump();
  } catch (const std::exception& e) {
    LOG_EVERY_N(WARNING, 100) << "control channel: dropped a message: " << e.what();
  }
}

absl::StatusOr<std::unique_ptr<ControlLink>> ControlLink::Start(
    Context* context, const ControlLinkOptions& options,
    std::function<void(const Verdict&)> changed) {
  SAVIOR_ASSIGN_OR_RETURN(auto socket,
                          DealerSocket::Connect(context, options.endpoint, options.security));
  return std::unique_ptr<ControlLink>(
      new ControlLink(context, options, std::move(socket), std::move(changed)));
}

ControlLink::ControlLink(Context* context, const ControlLinkOptions& options,
                         std::unique_ptr<DealerSocket> socket,
                         std::function<void(const Verdict&)> changed)
    : context_(context),
      options_(options),
      socket_(std::move(socket)),
      changed_(std::move(changed)),
      heard_(SteadyClock::now()),
      thread_([this] { Run(); }) {}

ControlLink::~ControlLink() {
  Change([](State& state) { state.left = true; });
  {
    std::unique_lock lock(mutex_);
    news_.wait_for(lock, kFarewell, [this] { return has_left_; });
    stopping_ = true;
  }
  thread_.join();
}

void ControlLink::Change(const std::function<void(State&)>& change) {
  const std::lock_guard lock(mutex_);
  change(state_);
  dirty_ = true;
}

void ControlLink::AskToStop() {
  Change([](State& state) { state.stop = true; });
}

void ControlLink::ReportFinished() {
  Change([](State& state) { state.finished = true; });
}

void ControlLink::ReportFailure(const std::string& text, int exit_code) {
  Change([&](State& state) {
    state.error = text.empty() ? "unknown error" : text;
    state.exit_code = exit_code;
  });
  std::unique_lock lock(mutex_);
  news_.wait_for(lock, kFarewell, [this] { return verdict_.state == RunState::kFailed; });
}

Verdict ControlLink::WaitForEnd() {
  std::unique_lock lock(mutex_);
  news_.wait(lock, [this] { return verdict_.state >= RunState::kFinished; });
  return verdict_;
}

void ControlLink::Run() {
  const milliseconds beat = std::clamp(options_.lease / 8, milliseconds(20), milliseconds(1000));
  Deadline next = SteadyClock::now();
  while (true) {
    State state;
    bool due = SteadyClock::now() >= next;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
      due |= std::exchange(dirty_, false);
      state = state_;
    }
    if (due) {
      Send(state);
      next = DeadlineIn(beat);
    }
    const int fd = socket_->fd();
    WaitReadable({&fd, 1}, std::min(next, DeadlineIn(kTick)));
    ReceiveAll();
    if (SteadyClock::now() - heard_ > options_.lease) {
      Take({RunState::kFailed,
            fmt::format("no word from the coordinator (rank 0) for {:.1f} s (cluster.lease_s)",
                        SecondsSince(heard_)),
            1, /*own=*/true},
           false);
    }
  }
}

void ControlLink::Send(const State& state) {
  const Json json = {{"run", options_.run},        {"rank", options_.rank}, {"stop", state.stop},
                     {"finished", state.finished}, {"left", state.left},    {"error", state.error},
                     {"code", state.exit_code}};
  // Without a connection it is said again.
  socket_->Send(FrameOf(context_, json.dump(-1, ' ', false, Json::error_handler_t::replace)));
}

void ControlLink::ReceiveAll() {
  Frame message;
  while (socket_->Receive(&message)) {
    const Json json = Json::parse(TextOf(message), nullptr, /*allow_exceptions=*/false);
    try {
      if (json.at("run").get<uint64_t>() != options_.run) continue;
      heard_ = SteadyClock::now();
      const int state = json.at("state");
      if (state < 0 || state > static_cast<int>(RunState::kFailed)) continue;
      Take({static_cast<RunState>(state), json.at("text"), json.at("code")}, json.at("left"));
    } catch (const Json::exception& e) {
      LOG_EVERY_N(WARNING, 100) << "control channel: dropped a message: " << e.what();
    }
  }
}

void ControlLink::Take(Verdict verdict, bool left) {
  bool is_news = false;
  {
    const std::lock_guard lock(mutex_);
    // States only go forward, as replies may overtake each other; a run that has finished does not
    // fail any more (membership.h), though its coordinator leaves before the last process does.
    if (verdict.state > verdict_.state && verdict_.state != RunState::kFinished) {
      verdict_ = verdict;
      is_news = true;
    }
    has_left_ |= left;
  }
  if (is_news && changed_) changed_(verdict);
  news_.notify_all();
}

}  // namespace savior
