// What do a pull and a push over the network cost, in CPU time of both sides?
//
// Server and client are two processes. The server holds `rows` rows (key = splitmix64's finaliser
// of 1 .. rows), one shard, all in RAM, rowwise Adagrad; the client asks for batches of unique keys
// drawn from Zipf(1.05), again and again, with 1 or 4 requests in flight. Beside it the same
// batches go to the plainest server there is (bench/map_server.h) over the same transport.
#include <fcntl.h>
#include <glog/logging.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <sstream>

#include "bench/harness.h"
#include "bench/map_server.h"
#include "common/process.h"
#include "common/transport.h"
#include "ps/local_store.h"
#include "ps/server.h"
#include "tests/common/temp_folder.h"
#include "worker/remote_store.h"

extern char** environ;  // NOLINT(readability-identifier-naming): POSIX's

namespace savior {
namespace {

struct Flags {
  BenchFlags bench;
  uint64_t rows = 10'000'000;
  std::vector<uint32_t> dims = {16, 32, 64};
  std::vector<size_t> batches = {1000, 10'000, 100'000};
  std::vector<std::string> networks = {"tcp", "ipc", "curve"};
  std::vector<size_t> in_flight = {1, 4};
  std::vector<std::string> systems = {"savior", "map"};
  std::string wire = "fp32";
  size_t message_bytes = RemoteStoreOptions().message_bytes;
  std::string server;  // of the child: which system it is
};

std::vector<TableSpec> Tables(uint32_t dim) {
  return {{.name = "t", .dim = dim, .optimizer = {.kind = OptimizerKind::kRowwiseAdagrad}}};
}

// ---- The server's process. Commands come by lines of standard input, answers go to standard
// output: "NETWORK server-public server-secret client-public" -> "ENDPOINT".

std::string EndpointPattern(const std::string& network, const TempFolder& folder) {
  return network == "ipc" ? "ipc://" + (folder / "socket").string() : "tcp://127.0.0.1:0";
}

SocketSecurity ServerSecurity(std::istringstream* command, const std::string& network,
                              Context* context) {
  CurveKeys keys;
  std::string client;
  *command >> keys.public_key >> keys.secret_key >> client;
  if (network != "curve") return {};
  CHECK(context->AllowClients({&client, 1}).ok());
  return {.keys = keys};
}

void Preload(LocalStore* store, uint32_t dim, uint64_t rows) {
  constexpr uint64_t kAtOnce = 65536;
  const std::vector<float> grads(kAtOnce * dim, 0.01f);
  std::vector<uint64_t> keys;
  for (uint64_t rank = 1; rank <= rows;) {
    keys.clear();
    for (; rank <= rows && keys.size() < kAtOnce; ++rank) keys.push_back(Mix(rank));
    const TablePush push{0, keys, std::span(grads).first(keys.size() * dim)};
    const absl::Status status = store->Push(0, {&push, 1}, DeadlineIn(std::chrono::minutes(5)));
    CHECK(status.ok()) << status;
  }
}

int ServeSavior(const Flags& flags) {
  const uint32_t dim = flags.dims[0];
  const TempFolder folder;
  Context context;
  const uint64_t row_bytes = 4 * dim + 64;
  auto store = LocalStore::Open({.tables = Tables(dim),
                                 .ram_budget_bytes = flags.rows * row_bytes * 3 / 2 + (64 << 20),
                                 .folder = folder / "live"});
  CHECK(store.ok()) << store.status();
  Preload(store->get(), dim, flags.rows);
  std::unique_ptr<Server> server;
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream command(line);
    std::string network;
    command >> network;
    server.reset();
    auto started = Server::Start(&(*store)->host(), &context,
                                 {.endpoint = EndpointPattern(network, folder),
                                  .security = ServerSecurity(&command, network, &context)});
    CHECK(started.ok()) << started.status();
    server = *std::move(started);
    std::cout << server->endpoints()[0] << std::endl;
  }
  return 0;
}

int ServeMap(const Flags& flags) {
  const TempFolder folder;
  Context context;
  MapServer server(flags.dims[0], flags.rows);
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream command(line);
    std::string network;
    command >> network;
    const absl::Status bound = server.Bind(&context, EndpointPattern(network, folder),
                                           ServerSecurity(&command, network, &context));
    CHECK(bound.ok()) << bound;
    std::cout << server.endpoint() << std::endl;
    server.ServeUntil(STDIN_FILENO, &context);
  }
  return 0;
}

// A server's process, seen from the client's.
class ServerProcess {
 public:
  ServerProcess(const std::string& system, uint32_t dim, uint64_t rows) {
    int in[2];
    int out[2];
    PCHECK(::pipe2(in, O_CLOEXEC) == 0 && ::pipe2(out, O_CLOEXEC) == 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    std::vector<std::string> arguments = {
        "bench_pull_push", "--server",          system, "--dims", std::to_string(dim),
        "--rows",          std::to_string(rows)};
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    CHECK_EQ(posix_spawn(&pid_, "/proc/self/exe", &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    ::close(in[0]);
    ::close(out[1]);
    to_ = ::fdopen(in[1], "w");
    from_ = ::fdopen(out[0], "r");
    CHECK_EQ(ReadLine(), "ready") << "the " << system << " server did not start";
  }
  ~ServerProcess() {
    std::fclose(to_);
    std::fclose(from_);
    ::waitpid(pid_, nullptr, 0);
  }
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  // Returns the endpoint.
  std::string Serve(const std::string& network, const CurveKeys& server, const CurveKeys& client) {
    std::fprintf(to_, "%s %s %s %s\n", network.c_str(), server.public_key.c_str(),
                 server.secret_key.c_str(), client.public_key.c_str());
    std::fflush(to_);
    return ReadLine();
  }
  pid_t pid() const { return pid_; }

 private:
  std::string ReadLine() {
    char line[1024] = "";
    CHECK(std::fgets(line, sizeof(line), from_) != nullptr) << "the server has died";
    return std::string(line, std::strcspn(line, "\n"));
  }

  pid_t pid_ = 0;
  FILE* to_ = nullptr;
  FILE* from_ = nullptr;
};

// ---- The client's process.

struct Batch {
  std::vector<uint64_t> keys;
  std::vector<float> rows;  // pulled to, or pushed from
};

// One kind of client: begins requests, and ends them in the same order.
class Client {
 public:
  virtual ~Client() = default;
  virtual void BeginPull(Batch* batch) = 0;
  virtual void BeginPush(Batch* batch) = 0;
  virtual void End() = 0;
};

Deadline Soon() { return DeadlineIn(std::chrono::seconds(60)); }

class SaviorClient final : public Client {
 public:
  SaviorClient(Context* context, const Flags& flags, uint32_t dim, const std::string& endpoint,
               const SocketSecurity& security) {
    auto store =
        RemoteStore::Connect(context, {.tables = Tables(dim),
                                       .endpoints = {endpoint},
                                       .wire_dtype = flags.wire == "bf16"   ? ValueDtype::kBfloat16
                                                     : flags.wire == "fp16" ? ValueDtype::kFloat16
                                                                            : ValueDtype::kFloat32,
                                       .message_bytes = flags.message_bytes,
                                       .security = security});
    CHECK(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void BeginPull(Batch* batch) override {
    const TablePull pull{.table = 0, .keys = batch->keys, .rows = batch->rows};
    Add(store_->StartPull(kAnyStep, {&pull, 1}, Soon()));
  }
  void BeginPush(Batch* batch) override {
    const TablePush push{.table = 0, .keys = batch->keys, .grads = batch->rows};
    Add(store_->StartPush(1, {&push, 1}, Soon()));
  }
  void End() override {
    const absl::Status status = store_->Finish(tickets_.front());
    CHECK(status.ok()) << status;
    tickets_.pop_front();
  }

 private:
  void Add(const absl::StatusOr<Ticket>& ticket) {
    CHECK(ticket.ok()) << ticket.status();
    tickets_.push_back(*ticket);
  }

  std::unique_ptr<RemoteStore> store_;
  std::deque<Ticket> tickets_;
};

class MapClient final : public Client {
 public:
  MapClient(Context* context, const std::string& endpoint, const SocketSecurity& security)
      : context_(context) {
    auto socket = DealerSocket::Connect(context, endpoint, security);
    CHECK(socket.ok()) << socket.status();
    socket_ = *std::move(socket);
  }
  void BeginPull(Batch* batch) override { Send(batch, false); }
  void BeginPush(Batch* batch) override { Send(batch, true); }
  void End() override {
    Frame reply;
    while (!socket_->Receive(&reply)) WaitReadable(std::vector<int>{socket_->fd()}, Soon());
    const std::span<const std::byte> bytes = std::as_const(reply).bytes();
    std::vector<float>& rows = pulls_.front()->rows;
    if (bytes.size() == rows.size() * sizeof(float)) {
      std::memcpy(rows.data(), bytes.data(), bytes.size());
    }
    pulls_.pop_front();
  }

 private:
  void Send(Batch* batch, bool push) {
    const uint64_t n = batch->keys.size();
    const size_t grads = push ? batch->rows.size() * sizeof(float) : 0;
    Frame frame = context_->NewFrame((n + 1) * sizeof(n) + grads);
    std::byte* const out = frame.bytes().data();
    std::memcpy(out, &n, sizeof(n));
    std::memcpy(out + sizeof(n), batch->keys.data(), n * sizeof(n));
    if (push) std::memcpy(out + (n + 1) * sizeof(n), batch->rows.data(), grads);
    while (!socket_->Send(frame.Share())) WaitReadable(std::vector<int>{socket_->fd()}, Soon());
    pulls_.push_back(batch);
  }

  Context* const context_;
  std::unique_ptr<DealerSocket> socket_;
  std::deque<Batch*> pulls_;
};

// A measurement is cut into this many; rate and CPU time are the medians.
constexpr int kWindows = 3;

struct Measured {
  double keys_per_second = 0;
  double cpu_us_per_key = 0;
  double p50_us = 0;
  double p99_us = 0;
};

Measured Measure(Client* client, std::span<Batch> batches, bool push, size_t in_flight,
                 double seconds, pid_t server) {
  const auto begin = [&](size_t i) {
    Batch* const batch = &batches[i % batches.size()];
    push ? client->BeginPush(batch) : client->BeginPull(batch);
  };
  std::vector<double> begun;
  std::vector<double> took;
  const auto run = [&](double until, size_t least) {
    begun.clear();
    took.clear();
    size_t next = 0;
    while (took.size() < least || NowSeconds() < until) {
      for (; next < took.size() + in_flight; ++next) {
        begun.push_back(NowSeconds());
        begin(next);
      }
      client->End();
      took.push_back(NowSeconds() - begun[took.size()]);
    }
    for (size_t left = next - took.size(); left > 0; --left) {
      client->End();
      took.push_back(NowSeconds() - begun[took.size()]);
    }
  };
  run(NowSeconds() + seconds / 4, 2);  // to warm up
  std::vector<double> rates;
  std::vector<double> cpus;
  std::vector<double> latencies;
  for (int window = 0; window < kWindows; ++window) {
    const double start = NowSeconds();
    const double cpu = CpuSecondsOf() + CpuSecondsOf(server);
    run(start + seconds / kWindows, 1);
    const double keys = static_cast<double>(took.size() * batches[0].keys.size());
    rates.push_back(keys / (NowSeconds() - start));
    cpus.push_back((CpuSecondsOf() + CpuSecondsOf(server) - cpu) / keys);
    latencies.insert(latencies.end(), took.begin(), took.end());
  }
  return {.keys_per_second = Median(rates),
          .cpu_us_per_key = 1e6 * Median(cpus),
          .p50_us = 1e6 * Median(latencies),
          .p99_us = 1e6 * Percentile(latencies, 0.99)};
}

class Bench {
 public:
  explicit Bench(const Flags& flags)
      : flags_(flags),
        report_("bench_pull_push",
                "client and server are two processes, one shard, " + std::to_string(flags.rows) +
                    " rows in RAM, Zipf 1.05, unique keys; CPU microseconds per key are of both "
                    "processes together, medians of 3 windows; push is rowwise Adagrad (map: a "
                    "sum); wire " +
                    flags.wire,
                flags.bench) {
    Zipf zipf(flags.rows, 1.05, 1);
    for (const size_t size : flags.batches) {
      std::vector<std::vector<uint64_t>>& drawn = keys_.emplace_back();
      const size_t count = std::clamp<size_t>(400'000 / size, 4, 40);
      for (size_t i = 0; i < count; ++i) drawn.push_back(DrawUniqueKeys(&zipf, size));
    }
  }

  int Run() {
    std::printf("%-6s %-5s %4s %6s %3s | %9s %8s %8s %8s | %9s %8s %8s\n", "system", "net", "dim",
                "keys", "fly", "pull M/s", "cpu us", "p50 us", "p99 us", "push M/s", "cpu us",
                "p50 us");
    for (const uint32_t dim : flags_.dims) {
      for (const std::string& system : flags_.systems) RunServer(system, dim);
    }
    PrintRatios();
    return report_.Finish();
  }

 private:
  void RunServer(const std::string& system, uint32_t dim) {
    ServerProcess server(system, dim, flags_.rows);
    for (const std::string& network : flags_.networks) {
      const std::string endpoint = server.Serve(network, server_keys_, client_keys_);
      SocketSecurity security;
      if (network == "curve") {
        security = {.keys = client_keys_, .server_key = server_keys_.public_key};
      }
      std::unique_ptr<Client> client;
      if (system == "savior") {
        client = std::make_unique<SaviorClient>(&context_, flags_, dim, endpoint, security);
      } else {
        client = std::make_unique<MapClient>(&context_, endpoint, security);
      }
      for (size_t b = 0; b < flags_.batches.size(); ++b) {
        std::vector<Batch> batches;
        for (const std::vector<uint64_t>& keys : keys_[b]) {
          batches.push_back({keys, std::vector<float>(keys.size() * dim, 0.001f)});
        }
        for (const size_t fly : flags_.in_flight) {
          RunOne(system, network, dim, fly, client.get(), batches, server.pid());
        }
      }
    }
  }

  void RunOne(const std::string& system, const std::string& network, uint32_t dim, size_t fly,
              Client* client, std::span<Batch> batches, pid_t server) {
    const size_t keys = batches[0].keys.size();
    const Measured pull = Measure(client, batches, false, fly, flags_.bench.seconds, server);
    const Measured push = Measure(client, batches, true, fly, flags_.bench.seconds, server);
    std::printf("%-6s %-5s %4u %6zu %3zu | %9.2f %8.3f %8.0f %8.0f | %9.2f %8.3f %8.0f\n",
                system.c_str(), network.c_str(), dim, keys, fly, pull.keys_per_second / 1e6,
                pull.cpu_us_per_key, pull.p50_us, pull.p99_us, push.keys_per_second / 1e6,
                push.cpu_us_per_key, push.p50_us);
    std::fflush(stdout);
    for (const bool is_push : {false, true}) {
      const Measured& m = is_push ? push : pull;
      const std::string name = network + (is_push ? " push" : " pull") + " dim " +
                               std::to_string(dim) + ", " + std::to_string(keys) + " keys, " +
                               std::to_string(fly) + " in flight";
      (system == "savior" ? ours_ : theirs_).emplace_back(name, m.cpu_us_per_key);
      report_.Add({{"system", system},
                   {"network", network},
                   {"wire", flags_.wire},
                   {"operation", is_push ? "push" : "pull"},
                   {"rows", flags_.rows},
                   {"dim", dim},
                   {"keys", keys},
                   {"in_flight", fly},
                   {"keys_per_second", m.keys_per_second},
                   {"cpu_us_per_key", m.cpu_us_per_key},
                   {"p50_us", m.p50_us},
                   {"p99_us", m.p99_us}});
    }
  }

  // Of CPU time per key: how many times the map's is ours.
  void PrintRatios() const {
    std::vector<double> pulls;
    std::vector<double> pushes;
    for (const auto& [name, cpu] : ours_) {
      for (const auto& [their_name, their_cpu] : theirs_) {
        if (name != their_name) continue;
        (name.find("push") != std::string::npos ? pushes : pulls).push_back(their_cpu / cpu);
      }
    }
    if (pulls.empty()) return;
    std::printf(
        "map's CPU time per key over savior's: pull median %.2f, least %.2f; push median "
        "%.2f, least %.2f\n",
        Median(pulls), Percentile(pulls, 0), Median(pushes), Percentile(pushes, 0));
  }

  const Flags& flags_;
  BenchReport report_;
  const CurveKeys server_keys_ = CurveKeys::Make();
  const CurveKeys client_keys_ = CurveKeys::Make();
  Context context_;
  std::vector<std::vector<std::vector<uint64_t>>> keys_;  // [batch size][batch]
  std::vector<std::pair<std::string, double>> ours_;      // measurement, CPU us per key
  std::vector<std::pair<std::string, double>> theirs_;
};

}  // namespace
}  // namespace savior

int main(int argc, char** argv) {
  savior::KeepFreedMemory();
  google::InitGoogleLogging(argv[0]);
  FLAGS_logtostderr = true;
  savior::Flags flags;
  CLI::App app("CPU time, throughput and latency of pull and push over the network");
  flags.bench.seconds = 0.2;  // so that all of it takes three minutes
  flags.bench.AddTo(&app);
  app.add_option("--rows", flags.rows, "Rows that the server holds")->capture_default_str();
  app.add_option("--dims", flags.dims, "Row widths")->delimiter(',')->capture_default_str();
  app.add_option("--batches", flags.batches, "Keys per call")->delimiter(',');
  app.add_option("--networks", flags.networks, "Of tcp, ipc, curve")->delimiter(',');
  app.add_option("--in-flight", flags.in_flight, "Calls in flight")->delimiter(',');
  app.add_option("--systems", flags.systems, "Of savior, map")->delimiter(',');
  app.add_option("--wire", flags.wire, "fp32, bf16 or fp16 (savior's)")->capture_default_str();
  app.add_option("--message-bytes", flags.message_bytes, "savior's")->capture_default_str();
  app.add_option("--server", flags.server, "Used by the bench itself");
  CLI11_PARSE(app, argc, argv);
  if (!flags.server.empty()) {
    return flags.server == "savior" ? savior::ServeSavior(flags) : savior::ServeMap(flags);
  }
  if (flags.bench.smoke) {
    flags.rows = 20'000;
    flags.dims = {16};
    flags.batches = {1000};
    flags.bench.seconds = 0.01;
  }
  return savior::Bench(flags).Run();
}
