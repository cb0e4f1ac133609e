package peer;

import jakarta.servlet.Filter;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.boot.web.servlet.FilterRegistrationBean;
import org.springframework.cloud.netflix.eureka.server.EnableEurekaServer;
import org.springframework.context.annotation.Bean;
import org.springframework.core.Ordered;

/**
 * Spring Cloud's Eureka server.
 *
 * <p>{@code server -with-stdin PORT [PROPERTY=VALUE...]}: ends with its standard input. Where the property {@code
 * credential} names a file, whoever asks for something has to send the user and the password that are in it then, as
 * USER:PASSWORD.
 */
@SpringBootApplication
@EnableEurekaServer
public class Main {
  public static void main(String[] args) {
    endsWithInput();
    String[] properties = new String[args.length - 2];
    properties[0] = "server.port=" + args[2];
    System.arraycopy(args, 3, properties, 1, args.length - 3);
    new SpringApplicationBuilder(Main.class)
        .properties(
            "server.address=127.0.0.1",
            "spring.main.banner-mode=off",
            "logging.level.root=warn",
            "eureka.instance.hostname=localhost",
            "eureka.client.register-with-eureka=false",
            "eureka.client.fetch-registry=false")
        .properties(properties)
        .run();
  }

  private static void endsWithInput() {
    Thread thread =
        new Thread(
            () -> {
              try {
                System.in.transferTo(OutputStream.nullOutputStream());
              } catch (IOException closed) {
                // It has ended.
              }
              Runtime.getRuntime().halt(0);
            });
    thread.setDaemon(true);
    thread.start();
  }

  /** Before what answers as Eureka. */
  @Bean
  FilterRegistrationBean<Filter> asksForCredential(@Value("${credential:}") String file) {
    FilterRegistrationBean<Filter> filter =
        new FilterRegistrationBean<>(
            (request, response, chain) -> {
              String given = ((HttpServletRequest) request).getHeader("Authorization");
              if (!file.isEmpty() && !basic(Files.readAllBytes(Path.of(file))).equals(given)) {
                ((HttpServletResponse) response).setStatus(401);
              } else {
                chain.doFilter(request, response);
              }
            });
    filter.setOrder(Ordered.HIGHEST_PRECEDENCE);
    return filter;
  }

  private static String basic(byte[] credential) {
    return "Basic " + Base64.getEncoder().encodeToString(credential);
  }
}
