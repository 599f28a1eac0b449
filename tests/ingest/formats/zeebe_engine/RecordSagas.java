import io.camunda.zeebe.client.ZeebeClient;
import io.camunda.zeebe.client.api.response.ActivatedJob;
import io.camunda.zeebe.model.bpmn.Bpmn;
import io.camunda.zeebe.model.bpmn.BpmnModelInstance;
import io.camunda.zeebe.process.test.api.ZeebeTestEngine;
import io.camunda.zeebe.process.test.engine.EngineFactory;
import io.camunda.zeebe.protocol.record.Record;
import java.io.PrintStream;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;

/**
 * Runs sagas on Zeebe's engine, in this process, and writes every record that its exporters would be given, one per
 * line. Arguments: the file to write, a free port. Each saga has its order id as variable {@code orderId}.
 */
public final class RecordSagas {
  private static ZeebeTestEngine engine;
  private static ZeebeClient client;

  public static void main(String[] arguments) throws Exception {
    try (PrintStream out = new PrintStream(Path.of(arguments[0]).toFile(), "UTF-8")) {
      engine = EngineFactory.create(Integer.parseInt(arguments[1]));
      engine.start();
      client = engine.createClient();
      deploy();
      rolledBack();
      incident();
      waiting();
      fanOut();
      cancelled();
      stuckUndo();
      failedChild();
      uncaught();
      race();
      for (Record<?> record : engine.getRecordStreamSource().getRecords()) {
        out.println(record.toJson());
      }
      client.close();
      engine.stop();
    }
    System.exit(0);
  }

  private static void deploy() {
    client
        .newDeployResourceCommand()
        .addProcessModel(order(), "order.bpmn")
        .addProcessModel(wait("payment-wait"), "wait.bpmn")
        .addProcessModel(bulk(), "bulk.bpmn")
        .addProcessModel(
            Bpmn.createExecutableProcess("notify-customer")
                .startEvent()
                .serviceTask("mail", t -> t.zeebeJobType("mail"))
                .endEvent()
                .done(),
            "notify.bpmn")
        .addProcessModel(
            Bpmn.createExecutableProcess("onboarding")
                .startEvent()
                .callActivity("check", c -> c.zeebeProcessId("background-check"))
                .boundaryEvent("check-failed", b -> b.error("REJECTED"))
                .endEvent("not-hired")
                .moveToActivity("check")
                .endEvent("hired")
                .done(),
            "onboarding.bpmn")
        .addProcessModel(
            Bpmn.createExecutableProcess("background-check")
                .startEvent()
                .serviceTask("screen", t -> t.zeebeJobType("screen"))
                .endEvent("rejected", e -> e.error("REJECTED"))
                .done(),
            "check.bpmn")
        .addProcessModel(raced(), "race.bpmn")
        .send()
        .join();
  }

  private static BpmnModelInstance order() {
    return Bpmn.createExecutableProcess("order-saga")
        .startEvent("placed")
        .serviceTask("reserve-stock", t -> t.zeebeJobType("reserve"))
        .boundaryEvent(
            "undo-reserve",
            b -> b.compensation(c -> c.serviceTask("release-stock", t -> t.zeebeJobType("release"))))
        .moveToActivity("reserve-stock")
        .serviceTask("charge-payment", t -> t.zeebeJobType("charge"))
        .boundaryEvent(
            "undo-charge",
            b -> b.compensation(c -> c.serviceTask("refund-payment", t -> t.zeebeJobType("refund"))))
        .moveToActivity("charge-payment")
        .serviceTask("ship-order", t -> t.zeebeJobType("ship"))
        .boundaryEvent("carrier-rejected", b -> b.error("CARRIER_REJECTED"))
        .intermediateThrowEvent("undo-all", e -> e.compensateEventDefinition().compensateEventDefinitionDone())
        .endEvent("order-rejected")
        .moveToActivity("ship-order")
        .endEvent("order-shipped")
        .done();
  }

  private static BpmnModelInstance wait(String name) {
    return Bpmn.createExecutableProcess(name)
        .startEvent()
        .intermediateCatchEvent("cool-down", e -> e.timerWithDuration("PT1H"))
        .intermediateCatchEvent(
            "await-payment",
            e -> e.message(m -> m.name("payment-received").zeebeCorrelationKeyExpression("orderId")))
        .serviceTask("pack", t -> t.zeebeJobType("pack"))
        .boundaryEvent("too-slow", b -> b.timerWithDuration("PT2H"))
        .endEvent("gave-up")
        .moveToActivity("pack")
        .endEvent("packed")
        .done();
  }

  private static BpmnModelInstance bulk() {
    return Bpmn.createExecutableProcess("bulk-order")
        .startEvent()
        .serviceTask(
            "pick",
            t ->
                t.zeebeJobType("pick")
                    .multiInstance(
                        m -> m.zeebeInputCollectionExpression("items").zeebeInputElement("item").parallel()))
        .callActivity("notify", c -> c.zeebeProcessId("notify-customer"))
        .endEvent()
        .done();
  }

  private static BpmnModelInstance raced() {
    return Bpmn.createExecutableProcess("race")
        .startEvent("ordered")
        .message("order-placed")
        .scriptTask("price", t -> t.zeebeExpression("1 + 1").zeebeResultVariable("total"))
        .eventBasedGateway("paid-or-late")
        .intermediateCatchEvent("late", e -> e.timerWithDuration("PT1H"))
        .endEvent("cancelled-late")
        .moveToLastGateway()
        .intermediateCatchEvent(
            "paid", e -> e.message(m -> m.name("paid").zeebeCorrelationKeyExpression("orderId")))
        .subProcess(
            "fulfil",
            s -> s.embeddedSubProcess().startEvent().serviceTask("box", t -> t.zeebeJobType("box")).endEvent())
        .boundaryEvent("box-failed", b -> b.error("NO_BOX"))
        .endEvent("unboxed")
        .moveToActivity("fulfil")
        .endEvent("boxed")
        .done();
  }

  /** Charging fails twice, then works; the carrier refuses; both compensations run, one of them at its second try. */
  private static void rolledBack() throws Exception {
    start("order-saga", Map.of("orderId", "o-1", "card", "4111111111111111"));
    work("reserve", RecordSagas::done);
    work("charge", fails(2, "card processor unavailable"));
    work("charge", fails(1, "card processor timed out"));
    work("charge", RecordSagas::done);
    work("ship", throwsError("CARRIER_REJECTED", "address not served"));
    work("refund", fails(2, "refund window busy"));
    work("refund", RecordSagas::done);
    work("release", RecordSagas::done);
  }

  /** Out of retries: an incident, which a person resolves. */
  private static void incident() throws Exception {
    start("order-saga", Map.of("orderId", "o-2"));
    work("reserve", RecordSagas::done);
    long[] key = new long[1];
    work(
        "charge",
        job -> {
          key[0] = job.getKey();
          fails(0, "no route to bank").accept(job);
        });
    client.newUpdateRetriesCommand(key[0]).retries(1).send().join();
    for (Record<?> record : engine.getRecordStreamSource().getRecords()) {
      if (record.getValueType().name().equals("INCIDENT") && record.getIntent().name().equals("CREATED")) {
        client.newResolveIncidentCommand(record.getKey()).send().join();
      }
    }
    idle();
    work("charge", RecordSagas::done);
    work("ship", RecordSagas::done);
  }

  /** Waits for a timer, then for a message; then a worker dies and its job times out. */
  private static void waiting() throws Exception {
    start("payment-wait", Map.of("orderId", "o-3"));
    engine.increaseTime(Duration.ofMinutes(61));
    idle();
    publish("payment-received", "o-3", Map.of());
    work("pack", job -> {});
    engine.increaseTime(Duration.ofSeconds(40));
    idle();
    work("pack", RecordSagas::done);
  }

  /** Three parallel executions of one step, then a called process. */
  private static void fanOut() throws Exception {
    start("bulk-order", Map.of("orderId", "o-4", "items", List.of("a", "b", "c")));
    work("pick", RecordSagas::done);
    work("mail", RecordSagas::done);
  }

  /** An operator cancels it while it waits for a worker. */
  private static void cancelled() throws Exception {
    client.newCancelInstanceCommand(start("order-saga", Map.of("orderId", "o-5"))).send().join();
    idle();
  }

  /** A compensation runs out of retries and nobody resolves that. */
  private static void stuckUndo() throws Exception {
    start("order-saga", Map.of("orderId", "o-6"));
    work("reserve", RecordSagas::done);
    work("charge", RecordSagas::done);
    work("ship", throwsError("CARRIER_REJECTED", ""));
    work("refund", fails(0, "refund refused"));
    work("release", RecordSagas::done);
  }

  /** A called process ends with an error event, which its caller catches. */
  private static void failedChild() throws Exception {
    start("onboarding", Map.of("orderId", "o-7"));
    work("screen", RecordSagas::done);
  }

  /** A worker throws an error that nobody catches: an incident. */
  private static void uncaught() throws Exception {
    start("bulk-order", Map.of("orderId", "o-8", "items", List.of("a")));
    work("pick", throwsError("NO_SUCH_ITEM", "unknown item"));
  }

  /** Started by messages. One gets paid, and an error leaves its sub-process; the other one is late. */
  private static void race() throws Exception {
    publish("order-placed", "o-9", Map.of("orderId", "o-9"));
    publish("order-placed", "o-10", Map.of("orderId", "o-10"));
    publish("paid", "o-9", Map.of());
    work("box", throwsError("NO_BOX", "no box fits"));
    engine.increaseTime(Duration.ofMinutes(61));
    idle();
  }

  private static long start(String process, Map<String, Object> variables) throws Exception {
    long key =
        client
            .newCreateInstanceCommand()
            .bpmnProcessId(process)
            .latestVersion()
            .variables(variables)
            .send()
            .join()
            .getProcessInstanceKey();
    idle();
    return key;
  }

  private static void publish(String message, String orderId, Map<String, Object> variables) throws Exception {
    client.newPublishMessageCommand().messageName(message).correlationKey(orderId).variables(variables).send().join();
    idle();
  }

  private static void work(String type, Consumer<ActivatedJob> action) throws Exception {
    List<ActivatedJob> jobs =
        client
            .newActivateJobsCommand()
            .jobType(type)
            .maxJobsToActivate(10)
            .workerName(type + "-worker")
            .timeout(Duration.ofSeconds(30))
            .send()
            .join()
            .getJobs();
    if (jobs.isEmpty()) {
      throw new IllegalStateException("no job of type " + type);
    }
    jobs.forEach(action);
    idle();
  }

  private static void done(ActivatedJob job) {
    client.newCompleteCommand(job).variables(Map.of("done", job.getElementId())).send().join();
  }

  private static Consumer<ActivatedJob> fails(int left, String message) {
    return job -> client.newFailCommand(job).retries(left).errorMessage(message).send().join();
  }

  private static Consumer<ActivatedJob> throwsError(String code, String message) {
    return job -> client.newThrowErrorCommand(job).errorCode(code).errorMessage(message).send().join();
  }

  private static void idle() throws Exception {
    engine.waitForIdleState(Duration.ofSeconds(20));
  }
}
