#include "launcher/cluster_process.h"

#include <absl/strings/str_cat.h>
#include <fmt/format.h>
#include <glog/logging.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/files.h"
#include "common/message.h"
#include "common/unique_number.h"
#include "launcher/commit.h"
#include "launcher/exit_code.h"
#include "launcher/network.h"
#include "launcher/remote_run_store.h"
#include "ps/restore.h"
#include "worker/device.h"
#include "worker/tables.h"
#include "worker/worker_allreduce.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

ValueDtype WireDtype(const std::string& name) {
  if (name == "bfloat16") return ValueDtype::kBfloat16;
  if (name == "float16") return ValueDtype::kFloat16;
  return ValueDtype::kFloat32;
}

}  // namespace

ClusterProcess::~ClusterProcess() = default;

absl::Status ClusterProcess::Join(const std::string& role) {
  SAVIOR_ASSIGN_OR_RETURN(world_, MpiWorld::Open(PhaseDeadline()));
  everybody_ = MpiGroup::World(world_.get());
  SAVIOR_RETURN_IF_ERROR(ExchangeCards(role));
  SAVIOR_RETURN_IF_ERROR(ConnectControl());
  SAVIOR_RETURN_IF_ERROR(FormGroups());
  return CheckFolderIsShared();
}

Deadline ClusterProcess::PhaseDeadline() const {
  return DeadlineIn(Milliseconds(config_.cluster.start_timeout_s));
}

absl::StatusOr<std::vector<std::string>> ClusterProcess::Share(
    const absl::StatusOr<std::string>& mine, Deadline deadline) {
  const Json json = {{"code", static_cast<int>(mine.status().code())},
                     {"text", mine.ok() ? *mine : std::string(mine.status().message())}};
  SAVIOR_ASSIGN_OR_RETURN(std::vector<std::string> all,
                          everybody_->Allgather(
                              // An error may quote bytes that are no text.
                              json.dump(-1, ' ', false, Json::error_handler_t::replace), deadline));
  for (uint32_t r = 0; r < all.size(); ++r) {
    const Json said = Json::parse(all[r], nullptr, /*allow_exceptions=*/false);
    if (!said.is_object() || !said.contains("code") || !said.contains("text")) {
      return absl::DataLossError(absl::StrCat("rank ", r, " says what does not decode"));
    }
    std::string text = said["text"];
    const auto code = static_cast<absl::StatusCode>(said["code"].get<int>());
    if (code != absl::StatusCode::kOk) {
      return absl::Status(code,
                          r == rank() ? text : absl::StrCat(placement_.NameOfRank(r), ": ", text));
    }
    all[r] = std::move(text);
  }
  return all;
}

absl::Status ClusterProcess::ExchangeCards(const std::string& role) {
  SAVIOR_ASSIGN_OR_RETURN(const std::string program, DigestFile("/proc/self/exe"));
  const absl::StatusOr<std::vector<std::string>> gpus =
      config_.cluster.device == "cpu" ? absl::FailedPreconditionError("not looked for")
                                      : FindGpus();
  const RankCard mine{.host = HostName(),
                      .pid = ::getpid(),
                      .role = role,
                      .version = absl::StrCat("savior ", SAVIOR_VERSION, ", wire ", kWireVersion),
                      .program = program,
                      .config = ToToml(config_),
                      .public_key = keys_.public_key,
                      .incarnation = DrawUniqueNumber(),
                      .gpus = gpus.value_or(std::vector<std::string>{}),
                      .no_gpu = std::string(gpus.status().message())};
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          everybody_->Allgather(mine.Encode(), PhaseDeadline()));
  std::vector<std::string> keys;
  for (const std::string& bytes : all) {
    SAVIOR_ASSIGN_OR_RETURN(RankCard card, RankCard::Decode(bytes));
    keys.push_back(card.public_key);
    cards_.push_back(std::move(card));
  }
  SAVIOR_RETURN_IF_ERROR(CheckCards(cards_));
  SAVIOR_ASSIGN_OR_RETURN(placement_, Place(config_, cards_));
  SAVIOR_ASSIGN_OR_RETURN(device_, AgreeOnDevice(config_.cluster.device, placement_, cards_));
  if (rank() == 0) {
    LOG(INFO) << placement_.Describe();
    LOG_IF(WARNING, config_.security.insecure)
        << "INSECURE: security.insecure = true: whoever reaches the ports of a run over several "
           "machines can read and change the model";
    LOG_IF(WARNING, !device_.why.empty())
        << "cluster.device = \"auto\": all workers compute on CPUs: " << device_.why;
  }
  return context_.AllowClients(keys);
}

// One host with an interface named can be reached from others, too: what several hosts may become
// when all but one have failed.
bool ClusterProcess::encrypted() const {
  const bool reachable = !placement_.one_host() || !config_.cluster.interface.empty();
  return config_.security.curve == "always" || (reachable && !config_.security.insecure);
}

SocketSecurity ClusterProcess::ServerSecurity() const {
  if (encrypted()) return {.keys = keys_};
  return {.insecure = config_.security.insecure};
}

SocketSecurity ClusterProcess::ClientSecurity(uint32_t server_rank) const {
  SocketSecurity security = ServerSecurity();
  if (encrypted()) security.server_key = cards_[server_rank].public_key;
  return security;
}

absl::StatusOr<std::string> ClusterProcess::BindTo(int64_t offset) const {
  std::string address = "127.0.0.1";
  if (!placement_.one_host() || !config_.cluster.interface.empty()) {
    SAVIOR_ASSIGN_OR_RETURN(address, AddressOf(config_.cluster.interface));
  }
  const int64_t port = config_.cluster.port == 0 ? 0 : config_.cluster.port + offset;
  if (port > 65535) {
    return absl::InvalidArgumentError(
        fmt::format("cluster.port = {}: with {} shards the ports end beyond 65535",
                    config_.cluster.port, placement_.shards));
  }
  return fmt::format("tcp://{}:{}", address, port);
}

absl::Status ClusterProcess::ConnectControl() {
  const uint64_t run = cards_[0].incarnation;
  const auto lease = Milliseconds(config_.cluster.lease_s);
  const auto start = [&]() -> absl::StatusOr<std::string> {
    if (rank() != 0) return "";
    std::vector<std::string> names;
    for (uint32_t r = 0; r < cards_.size(); ++r) names.push_back(placement_.NameOfRank(r));
    SAVIOR_ASSIGN_OR_RETURN(const std::string endpoint, BindTo(0));
    SAVIOR_ASSIGN_OR_RETURN(
        coordinator_,
        Coordinator::Start(&context_, endpoint, ServerSecurity(), run,
                           Membership(names, placement_.workers, lease, SteadyClock::now())));
    return coordinator_->endpoint();
  };
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> endpoints,
                          Share(start(), PhaseDeadline()));
  const auto changed = [this](const Verdict& verdict) {
    if (verdict.state == RunState::kStopping) stop_ = true;
    if (verdict.state != RunState::kFailed) return;
    // Whatever this process is doing, nobody waits for it any more. Without destructors: they may
    // wait for those who are gone.
    if (rank() == 0 || verdict.own) std::cerr << "savior: " << verdict.text << std::endl;
    google::FlushLogFiles(google::GLOG_INFO);
    std::cout.flush();
    std::_Exit(verdict.exit_code);
  };
  SAVIOR_ASSIGN_OR_RETURN(link_, ControlLink::Start(&context_,
                                                    {.endpoint = endpoints[0],
                                                     .security = ClientSecurity(0),
                                                     .run = run,
                                                     .rank = rank(),
                                                     .lease = lease},
                                                    changed));
  return absl::OkStatus();
}

absl::Status ClusterProcess::FormGroups() {
  constexpr uint32_t kWorkers = 0, kServersOnly = 1;
  SAVIOR_ASSIGN_OR_RETURN(workers_, everybody_->Split(IsWorker(role()) ? kWorkers : kServersOnly,
                                                      rank(), PhaseDeadline()));
  if (!IsWorker(role())) return absl::OkStatus();
  SAVIOR_ASSIGN_OR_RETURN(const c10::Device device, PickDevice(device_.device, local_worker()));
  SAVIOR_ASSIGN_OR_RETURN(
      allreduce_, MakeAllreduce(workers_.get(), device, WireDtype(config_.cluster.allreduce_dtype),
                                PhaseDeadline()));
  return absl::OkStatus();
}

int64_t ClusterProcess::local_worker() const { return placement_.LocalWorker(rank()); }

// Servers write commits into it, and all read them: found out before anything is trained.
absl::Status ClusterProcess::CheckFolderIsShared() {
  if (placement_.one_host()) return absl::OkStatus();
  const fs::path folder = config_.run.dir;
  const fs::path token = folder / absl::StrCat("start-", absl::Hex(cards_[0].incarnation));
  const auto write = [&]() -> absl::StatusOr<std::string> {
    if (rank() != 0) return "";
    SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(folder));
    SAVIOR_RETURN_IF_ERROR(WriteFileAtomically(token, ""));
    return "";
  };
  SAVIOR_RETURN_IF_ERROR(Share(write(), PhaseDeadline()).status());
  const auto look = [&]() -> absl::StatusOr<std::string> {
    // A file system over the network may show it late.
    for (int tries = 0; tries < 50; ++tries) {
      if (fs::exists(token)) return "";
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return absl::InvalidArgumentError(
        fmt::format("run.dir = {}: this host does not see what {} has written there: it must be on "
                    "a file system that all hosts share",
                    folder.string(), placement_.hosts[0]));
  };
  absl::Status seen = Share(look(), PhaseDeadline()).status();
  if (rank() == 0) SAVIOR_RETURN_IF_ERROR(RemoveAll(token));
  return seen;
}

absl::StatusOr<RunStart> ClusterProcess::Agree(std::optional<RunStart> mine) {
  std::string said;
  if (mine.has_value()) {
    said = Json{{"from", mine->restore_from.string()},
                {"step", mine->step},
                {"samples", mine->samples},
                {"codebook", ToJson(mine->codebook)},
                {"cuts", mine->cuts}}
               .dump();
  }
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> all, Share(said, DeadlineIn(kPatience)));
  try {
    const Json json = Json::parse(all[placement_.lead()]);
    const int64_t step = json.at("step");
    SAVIOR_ASSIGN_OR_RETURN(const CodebookState codebook,
                            CodebookStateFromJson(json.at("codebook"), step));
    return RunStart{.restore_from = json.at("from").get<std::string>(),
                    .step = step,
                    .samples = json.at("samples"),
                    .codebook = codebook,
                    .cuts = json.at("cuts").get<std::vector<int64_t>>()};
  } catch (const Json::exception& e) {
    return absl::DataLossError(
        absl::StrCat("what the lead worker says does not decode: ", e.what()));
  }
}

absl::Status ClusterProcess::Serve(const RunStart& start) {
  const auto server = static_cast<uint32_t>(std::ranges::find(placement_.servers, rank()) -
                                            placement_.servers.begin());
  ShardHostOptions options =
      HostOptions(config_, ServerFolder(config_, server), start.restore_from);
  options.shards = placement_.shards;
  options.first = placement_.FirstShard(server);
  options.count = placement_.ShardCount(server);
  SAVIOR_ASSIGN_OR_RETURN(host_, ShardHost::Open(std::move(options)));
  RemoveUnusedServerFolders(LiveFolder(config_), static_cast<uint32_t>(placement_.servers.size()));
  SAVIOR_ASSIGN_OR_RETURN(const std::string endpoint, BindTo(1));
  const fs::path commits = fs::path(config_.run.dir) / "commits";
  SAVIOR_ASSIGN_OR_RETURN(
      server_,
      Server::Start(host_.get(), &context_,
                    {.endpoint = endpoint,
                     .security = ServerSecurity(),
                     .incarnation = cards_[0].incarnation,
                     .codebook_version = start.codebook.version,
                     .steps = StepRules{.workers = static_cast<uint32_t>(placement_.workers.size()),
                                        .staleness = config_.cluster.staleness,
                                        .first_step = start.step},
                     .checkpoint_place =
                         [commits](int64_t step, uint32_t shard) {
                           return PlaceOfShard(PlaceOfCommit(commits, step), shard);
                         },
                     .counts_cpu = !IsWorker(role())}));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<RunStore>> ClusterProcess::OpenStore(const RunStart& start) {
  const auto serve = [&]() -> absl::StatusOr<std::string> {
    if (!IsServer(role())) return "";
    SAVIOR_RETURN_IF_ERROR(Serve(start));
    return Json(server_->endpoints()).dump();
  };
  // Restoring many rows takes its time.
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          Share(serve(), DeadlineIn(kPatience)));
  if (!IsWorker(role())) return nullptr;
  RemoteStoreOptions options{.tables = ModelTables(config_),
                             .endpoints = {},
                             .incarnation = cards_[0].incarnation,
                             .codebook_version = start.codebook.version,
                             .worker = static_cast<uint16_t>(workers_->rank()),
                             .clocked = true,
                             .wire_dtype = WireDtype(config_.cluster.wire_dtype)};
  std::vector<std::string> servers;
  for (const uint32_t rank : placement_.servers) {
    const Json endpoints = Json::parse(all[rank], nullptr, /*allow_exceptions=*/false);
    if (!endpoints.is_array()) return absl::DataLossError("endpoints that do not decode");
    for (const Json& endpoint : endpoints) {
      options.endpoints.push_back(endpoint.get<std::string>());
      servers.push_back(placement_.NameOfRank(rank));
      if (encrypted()) options.server_keys.push_back(cards_[rank].public_key);
    }
  }
  options.security = ServerSecurity();
  return RemoteRunStore::Connect(&context_, std::move(options), std::move(servers));
}

}  // namespace savior
