#include "serving/http_server.h"

#include <absl/strings/ascii.h>
#include <fmt/format.h>
#include <glog/logging.h>
#include <httplib.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "common/files.h"
#include "serving/connection.h"
#include "serving/listener.h"

namespace savior {
namespace {

constexpr int64_t kMostHeadBytes = 64 << 10;
constexpr std::chrono::milliseconds kLook = std::chrono::milliseconds(50);
constexpr const char* kBusy =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    "Connection: close\r\nContent-Length: 50\r\n\r\n"
    "{\"error\":\"too many connections; try again later\"}\n";

// What the handlers of a request share with the thread that serves its connection.
struct Exchange {
  Connection& connection;
  SteadyClock::time_point begin = {};
  httplib::Request* request = nullptr;  // null until its head is read
  HttpHead head = {};
  bool unread = false;  // part of the request was not read: nothing after it makes sense

  // For the same reason this answer is the connection's last, which it must say.
  void LeaveUnread(httplib::Response& response) {
    unread = true;
    if (request == nullptr) {
      response.set_header("Connection", "close");
      return;
    }
    // cpp-httplib answers a client that wants to close as we want it.
    request->headers.erase("Connection");
    request->headers.emplace("Connection", "close");
  }
};
// cpp-httplib hands nothing of ours through to handlers. A request's handlers run on the thread
// that called process_request.
thread_local Exchange* exchange = nullptr;

// Makes cpp-httplib read and write a Connection.
class Stream final : public httplib::Stream {
 public:
  explicit Stream(Connection& connection) : connection_(connection) {}
  bool is_readable() const override { return true; }
  bool is_writable() const override { return true; }
  ssize_t read(char* bytes, size_t size) override { return connection_.Read(bytes, size); }
  ssize_t write(const char* bytes, size_t size) override {
    return connection_.Write(bytes, size) ? static_cast<ssize_t>(size) : -1;
  }
  void get_remote_ip_and_port(std::string& ip, int& port) const override {
    std::tie(ip, port) = connection_.peer();
  }
  void get_local_ip_and_port(std::string& ip, int& port) const override {
    ip.clear();
    port = 0;
  }
  socket_t socket() const override { return connection_.fd(); }

 private:
  Connection& connection_;
};

// cpp-httplib as the parser of heads and bodies and the writer of answers; its own accept loop and
// thread pool are not used: stopping, it drops connections whose request it has not begun to read,
// a request that trickles in holds a thread for ever, and a chunked body has no bound.
class Parser final : public httplib::Server {
 public:
  using httplib::Server::process_request;
};

void Fill(const HttpAnswer& answer, httplib::Response& response) {
  response.status = answer.code;
  response.set_content(answer.body, answer.content_type);
  for (const auto& [name, value] : answer.headers) response.set_header(name, value);
}

HttpHead HeadOf(const httplib::Request& request) {
  HttpHead head{.method = request.method, .path = request.path, .headers = {}};
  for (const auto& [name, value] : request.headers) {
    // A header twice is a list; of one that is no list, nothing that is valid.
    const auto [at, first] = head.headers.emplace(absl::AsciiStrToLower(name), value);
    if (!first) at->second += ", " + value;
  }
  return head;
}

bool MayHaveBody(const HttpHead& head) {
  const auto length = head.headers.find("content-length");
  if (length != head.headers.end() && length->second == "0") return false;
  return length != head.headers.end() || head.headers.contains("transfer-encoding") ||
         (head.method != "GET" && head.method != "HEAD");
}

}  // namespace

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  SAVIOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const std::string token(absl::StripAsciiWhitespace(text));
  if (token.size() < 16 || token.size() > 4096) {
    return absl::InvalidArgumentError(fmt::format(
        "token file {}: {} characters, must be 16 to 4096 (openssl rand -hex 32 makes a good one)",
        path, token.size()));
  }
  if (!std::ranges::all_of(token, [](char c) { return c > ' ' && c < 127; })) {
    return absl::InvalidArgumentError(
        fmt::format("token file {}: must be one word of ASCII characters", path));
  }
  return token;
}

class ScoringServer::Impl {
 public:
  Impl(HttpServerOptions options, std::unique_ptr<Listener> listener,
       std::unique_ptr<TlsContext> tls, const CurrentScorer& current, ServingMetrics& metrics)
      : options_(std::move(options)),
        listener_(std::move(listener)),
        port_(listener_->port()),
        tls_(std::move(tls)),
        metrics_(metrics),
        service_(options_.service, current, metrics) {
    SetHandlers();
    for (int i = 0; i < options_.threads; ++i)
      threads_.emplace_back([this] { ServeConnections(); });
    accepting_ = std::thread([this] { AcceptConnections(); });
  }

  int port() const { return port_; }
  std::string url() const {
    const bool v6 = options_.host.find(':') != std::string::npos;
    return fmt::format("{}://{}{}{}:{}", tls_ == nullptr ? "http" : "https", v6 ? "[" : "",
                       options_.host, v6 ? "]" : "", port_);
  }

  void Stop() {
    const std::lock_guard lock(stop_mutex_);
    if (stopped_) return;
    stopped_ = true;
    service_.StopBeingReady();
    listener_->Wake();
    accepting_.join();
    listener_.reset();  // from here on the system refuses connections
    // Only now: who is told to close connects anew at once, and must find nobody rather than a
    // listener that is about to go.
    drained_at_ = (SteadyClock::now() + Milliseconds(options_.drain_s)).time_since_epoch().count();
    stopping_ = true;
    {
      const std::lock_guard queue_lock(mutex_);
      no_more_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  using Server = httplib::Server;

  // Of requests, in the order in which they are called.
  void Begin(httplib::Request& request);
  Server::HandlerResponse AnswerHead(const httplib::Request& request, httplib::Response& response);
  int AnswerExpect(const httplib::Request& request, httplib::Response& response);
  void AnswerPost(httplib::Response& response, const httplib::ContentReader& read);
  Server::HandlerResponse AnswerError(httplib::Response& response);

  void SetHandlers();
  void AcceptConnections();
  void ServeConnections();
  void Serve(Connection& connection);
  bool ServeRequest(Connection& connection);
  bool AwaitRequest(Connection& connection);
  bool Stopping(SteadyClock::time_point now) const {
    return stopping_ && now.time_since_epoch().count() > drained_at_;
  }

  const HttpServerOptions options_;
  std::unique_ptr<Listener> listener_;  // of the accepting thread, until that has ended
  const int port_;
  const std::unique_ptr<TlsContext> tls_;
  ServingMetrics& metrics_;
  ScoringService service_;
  Parser parser_;  // constant after construction
  std::atomic<bool> stopping_ = false;
  std::atomic<int64_t> drained_at_ = 0;  // set before stopping_
  std::atomic<int> waiting_ = 0;         // connections in queue_

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<int> queue_;  // accepted sockets that no thread has taken; guarded by mutex_
  bool no_more_ = false;   // guarded by mutex_

  std::mutex stop_mutex_;
  bool stopped_ = false;  // guarded by stop_mutex_
  std::vector<std::thread> threads_;
  std::thread accepting_;
};

void ScoringServer::Impl::SetHandlers() {
  const auto idle_s = static_cast<time_t>(std::max(1.0, options_.idle_timeout_s));
  parser_.set_keep_alive_timeout(idle_s);
  parser_.set_keep_alive_max_count(1'000'000);  // what it announces; AwaitRequest decides
  parser_.set_pre_routing_handler(
      [this](const httplib::Request& request, httplib::Response& answer) {
        return AnswerHead(request, answer);
      });
  parser_.set_expect_100_continue_handler(
      [this](const httplib::Request& request, httplib::Response& answer) {
        return AnswerExpect(request, answer);
      });
  parser_.Post(".*", [this](const httplib::Request&, httplib::Response& answer,
                            const httplib::ContentReader& read) { AnswerPost(answer, read); });
  parser_.set_error_handler(Server::HandlerWithResponse(
      [this](const httplib::Request&, httplib::Response& answer) { return AnswerError(answer); }));
  parser_.set_exception_handler(
      [](const httplib::Request&, httplib::Response& answer, const std::exception_ptr&) {
        LOG(ERROR) << "serving: an exception in a handler";
        Fill(ErrorAnswer(500, "internal error; the server's log says more"), answer);
        exchange->LeaveUnread(answer);
      });
  parser_.set_logger([this](const httplib::Request&, const httplib::Response& answer) {
    metrics_.Answered(ScoringService::EndpointName(exchange->head.path), answer.status,
                      SecondsSince(exchange->begin));
  });
}

void ScoringServer::Impl::Begin(httplib::Request& request) {
  exchange->request = &request;
  exchange->head = HeadOf(request);
  exchange->begin = SteadyClock::now();
  // Twice the body, for the sizes of its chunks; the body itself is counted as it is unpacked.
  exchange->connection.SetBudget(2 * service_.options().max_body_bytes + kMostHeadBytes);
  // Whatever the type is called, the body is ours to read: of forms, cpp-httplib would parse it.
  request.headers.erase("Content-Type");
  // Answers are small and wanted soon: not packed.
  request.headers.erase("Accept-Encoding");
}

httplib::Server::HandlerResponse ScoringServer::Impl::AnswerHead(const httplib::Request&,
                                                                 httplib::Response& response) {
  const auto answer = service_.HandleHead(exchange->head);
  if (!answer.has_value()) return Server::HandlerResponse::Unhandled;
  if (MayHaveBody(exchange->head)) exchange->LeaveUnread(response);
  Fill(*answer, response);
  exchange->connection.SetDeadline(DeadlineIn(Milliseconds(options_.answer_timeout_s)));
  return Server::HandlerResponse::Handled;
}

int ScoringServer::Impl::AnswerExpect(const httplib::Request& request,
                                      httplib::Response& response) {
  return AnswerHead(request, response) == Server::HandlerResponse::Handled ? response.status : 100;
}

void ScoringServer::Impl::AnswerPost(httplib::Response& response,
                                     const httplib::ContentReader& read) {
  std::string body;
  const auto most = static_cast<size_t>(service_.options().max_body_bytes);
  bool too_large = false;
  const bool whole = read([&](const char* bytes, size_t size) {
    too_large = size > most - body.size();
    if (!too_large) body.append(bytes, size);
    return !too_large;
  });
  const bool too_late = exchange->connection.too_late();
  exchange->connection.SetDeadline(DeadlineIn(Milliseconds(options_.answer_timeout_s)));
  if (whole) {
    Fill(service_.Handle(exchange->head, body), response);
    // Scoring took its time, too.
    exchange->connection.SetDeadline(DeadlineIn(Milliseconds(options_.answer_timeout_s)));
    return;
  }
  exchange->LeaveUnread(response);
  if (too_large || exchange->connection.over_budget()) {
    Fill(ErrorAnswer(413, fmt::format("the body: this server takes {} bytes", most)), response);
  } else if (too_late) {
    Fill(ErrorAnswer(408, fmt::format("the request took more than {} s to come in",
                                      options_.request_timeout_s)),
         response);
  } else {
    Fill(ErrorAnswer(400, "the body ends early, or is not encoded as its head says"), response);
  }
}

// Of answers >= 400: those that cpp-httplib makes by itself have no body yet.
httplib::Server::HandlerResponse ScoringServer::Impl::AnswerError(httplib::Response& response) {
  if (!response.body.empty()) return Server::HandlerResponse::Handled;
  exchange->LeaveUnread(response);
  if (exchange->connection.over_budget()) response.status = 431;
  if (exchange->connection.too_late()) response.status = 408;
  Fill(ErrorAnswer(response.status,
                   "the head of the request is not one of HTTP/1.1 that this "
                   "server takes, or came too slowly"),
       response);
  return Server::HandlerResponse::Handled;
}

void ScoringServer::Impl::AcceptConnections() {
  while (true) {
    const int fd = listener_->Accept();
    if (fd < 0) break;
    {
      const std::lock_guard lock(mutex_);
      if (queue_.size() < static_cast<size_t>(options_.max_waiting)) {
        queue_.push_back(fd);
        waiting_ = static_cast<int>(queue_.size());
        wake_.notify_one();
        continue;
      }
    }
    // Not worth a wait: whoever does not take it at once does not get it.
    if (tls_ == nullptr) ::send(fd, kBusy, std::strlen(kBusy), MSG_NOSIGNAL | MSG_DONTWAIT);
    ::close(fd);
    metrics_.Answered("other", 503, 0);
  }
}

void ScoringServer::Impl::ServeConnections() {
  while (true) {
    int fd = -1;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return no_more_ || !queue_.empty(); });
      if (queue_.empty()) return;
      fd = queue_.front();
      queue_.pop_front();
      waiting_ = static_cast<int>(queue_.size());
    }
    metrics_.Connections(1);
    try {
      Connection connection(fd, tls_.get());
      Serve(connection);
    } catch (const std::exception& e) {
      LOG(ERROR) << "serving: a connection failed: " << e.what();
    }
    exchange = nullptr;
    metrics_.Connections(-1);
  }
}

void ScoringServer::Impl::Serve(Connection& connection) {
  connection.SetDeadline(DeadlineIn(Milliseconds(options_.request_timeout_s)));
  if (!connection.Handshake()) return;
  while (AwaitRequest(connection) && ServeRequest(connection)) {
  }
}

// Whether another request begins (or the connection ends) before there is a reason to close it.
bool ScoringServer::Impl::AwaitRequest(Connection& connection) {
  const auto begin = SteadyClock::now();
  while (true) {
    if (connection.Readable(kLook)) return true;
    const auto now = SteadyClock::now();
    if (Stopping(now) || now - begin > Milliseconds(options_.idle_timeout_s)) return false;
    if (waiting_ > 0 && now - begin > Milliseconds(options_.crowded_idle_s)) return false;
  }
}

// -> whether the connection stays open.
bool ScoringServer::Impl::ServeRequest(Connection& connection) {
  Exchange current{.connection = connection};
  current.begin = SteadyClock::now();
  exchange = &current;
  connection.SetDeadline(DeadlineIn(Milliseconds(options_.request_timeout_s)));
  connection.SetBudget(kMostHeadBytes);
  Stream stream(connection);
  const bool last = stopping_ || waiting_ > 0;
  bool closed = false;
  const bool ok = parser_.process_request(stream, last, closed,
                                          [this](httplib::Request& request) { Begin(request); });
  exchange = nullptr;
  connection.SetDeadline(DeadlineIn(Milliseconds(options_.answer_timeout_s)));
  if (!connection.Flush() || !ok) return false;
  if (current.unread || connection.too_late()) {
    connection.CloseAfterAnswer();
    return false;
  }
  return !last && !closed;
}

absl::StatusOr<std::unique_ptr<ScoringServer>> ScoringServer::Start(HttpServerOptions options,
                                                                    const CurrentScorer& current,
                                                                    ServingMetrics& metrics) {
  if (options.threads < 1 || options.threads > 4096 || options.max_waiting < 1 ||
      options.service.max_concurrent < 1 || options.service.max_body_bytes < 1) {
    return absl::InvalidArgumentError(
        "server: threads must be 1 to 4096, and max_waiting, max_concurrent and max_body_bytes at "
        "least 1");
  }
  if (options.tls_certificate.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError("TLS takes both a certificate and its key");
  }
  if (!options.token_file.empty()) {
    SAVIOR_ASSIGN_OR_RETURN(options.service.token, ReadToken(options.token_file));
  }
  std::unique_ptr<TlsContext> tls;
  if (!options.tls_certificate.empty()) {
    SAVIOR_ASSIGN_OR_RETURN(tls, TlsContext::Load(options.tls_certificate, options.tls_key));
  }
  SAVIOR_ASSIGN_OR_RETURN(auto listener, Listener::Bind(options.host, options.port));
  const bool token = !options.service.token.empty();
  if (!listener->loopback() && tls == nullptr && !token && !options.insecure) {
    return absl::FailedPreconditionError(fmt::format(
        "host {}: other machines can reach it, and there is neither TLS nor a token: give one (or "
        "both), or say that it is meant to be insecure",
        options.host));
  }
  if (!listener->loopback() && (tls == nullptr || !token)) {
    LOG(WARNING) << fmt::format("serving: other machines can reach {}, {}{}{}", options.host,
                                tls == nullptr ? "in the clear (no TLS)" : "",
                                tls == nullptr && !token ? " and " : "",
                                token ? "" : "without a token");
  }
  std::signal(SIGPIPE, SIG_IGN);  // a peer that is gone is no reason to die
  return std::unique_ptr<ScoringServer>(new ScoringServer(std::make_unique<Impl>(
      std::move(options), std::move(listener), std::move(tls), current, metrics)));
}

ScoringServer::ScoringServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ScoringServer::~ScoringServer() { Stop(); }
int ScoringServer::port() const { return impl_->port(); }
std::string ScoringServer::url() const { return impl_->url(); }
void ScoringServer::Stop() { impl_->Stop(); }

}  // namespace savior
